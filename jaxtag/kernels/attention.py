"""Scaled dot-product attention, in the form that suits the platform, and its heads.

Its softmax always runs in float32.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from jaxtag.kernels.implementations import platform_dependent
from jaxtag.kernels.layers import ATTENDED, chunked_map, num_chunks_for_budget

# Bytes of attention scores that a TPU core holds in its vector memory (VMEM: 128 MiB on v5e and
# v6e, 16 to 32 MiB on the others).
_SCORE_BYTES = 16 << 20
# Tokens from which on GPUs use cuDNN's attention.
_CUDNN_MIN_TOKENS = 64


def attention(
    query: Float[Array, "B T H d"],
    key: Float[Array, "B S H d"],
    value: Float[Array, "B S H d"],
    mask: Bool[Array, "..."] | None = None,
    dropout: Callable[[Array], Array] | None = None,
) -> Float[Array, "B T H d"]:
    """Scaled dot-product attention; the only place that chooses how it is computed.

    Args:
        mask: broadcastable to `[B, H, T, S]`; True: attend.
        dropout: applied to the weights.
    """

    def plain(query: Array, key: Array, value: Array) -> Array:
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
        return head_major_attention(q, k, v, mask, dropout).transpose(0, 2, 1, 3)

    if mask is None and dropout is None and _cudnn_applies(query, key):
        attended = platform_dependent(query, key, value, cuda=_cudnn, default=plain)
        return checkpoint_name(attended, ATTENDED)
    return plain(query, key, value)


def _cudnn_applies(query: Array | jax.ShapeDtypeStruct, key: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether a GPU's program may have cuDNN's attention, whose scores never leave the chip.

    Asked when a program is traced, for a GPU that is present or for one that is not
    (`jaxtag.compile`).
    """
    if query.dtype != jnp.bfloat16 or min(query.shape[1], key.shape[1]) < _CUDNN_MIN_TOKENS:
        return False
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return False
    if not any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        return False
    gpus = jax.local_devices() if jax.default_backend() == "gpu" else []
    return all(float(gpu.compute_capability) >= 8.0 for gpu in gpus)


def _cudnn(query: Array, key: Array, value: Array) -> Array:
    cudnn = partial(jax.nn.dot_product_attention, implementation="cudnn")
    num_queries, num_keys = query.shape[1], key.shape[1]
    if num_queries % 2 == num_keys % 2 == 0:
        return cudnn(query, key, value)
    # JAX refuses odd lengths in training, for a bias that there is not.
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    lengths = [jnp.full(len(query), n, jnp.int32) for n in (num_queries, num_keys)]
    attended = cudnn(
        query, key, value, query_seq_lengths=lengths[0], key_value_seq_lengths=lengths[1]
    )
    return attended[:, :num_queries]


def head_major_attention(
    query: Float[Array, "B H T d"],
    key: Float[Array, "B H S d"],
    value: Float[Array, "B H S d"],
    mask: Bool[Array, "..."] | None = None,
    dropout: Callable[[Array], Array] | None = None,
) -> Float[Array, "B H T d"]:
    """`attention` with the heads before the positions, as a cache holds them."""
    attend = partial(_attend, mask=mask, dropout=dropout)
    # The scores of a chunk stay in the memory on the chip, where those of all would travel to the
    # main memory and back six times a layer.
    chunks = _num_chunks(query, key)
    if chunks > 1 and dropout is None and (mask is None or mask.ndim < 4 or mask.shape[0] == 1):
        attended = platform_dependent(
            query, key, value, tpu=partial(chunked_map, attend, chunks), default=attend
        )
    else:
        attended = attend(query, key, value)
    return checkpoint_name(attended, ATTENDED)


def _attend(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None,
    dropout: Callable[[Array], Array] | None,
) -> Array:
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum("bhts,bhsd->bhtd", weights, value)


def _num_chunks(query: Array, key: Array) -> int:
    """Chunks of the batch, so that the scores of one fit `_SCORE_BYTES` on each device."""
    batch, heads, length, _ = query.shape
    tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    return num_chunks_for_budget(batch, heads * length * key.shape[2] * 4 // tensor, _SCORE_BYTES)


def split_heads(x: Float[Array, "*B D"], heads: int) -> Float[Array, "*B {heads} d"]:
    """Splits the last dimension into heads."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def split_parts(x: Float[Array, "*B parts D"], heads: int) -> list[Float[Array, "*B {heads} d"]]:
    """Splits a projection into its parts (query, key, value), and each into heads.

    One split: its gradient is one concatenation, where slices would each be padded and added.
    """
    return [split_heads(p.squeeze(-2), heads) for p in jnp.split(x, x.shape[-2], axis=-2)]


def merge_heads(x: Float[Array, "*B heads d"]) -> Float[Array, "*B D"]:
    """The inverse of `split_heads`."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
