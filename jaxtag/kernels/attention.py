"""Scaled dot-product attention, in the form that suits the platform, and the heads it works on.

Its softmax always runs in float32.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxtag.kernels.layers import ATTENDED, chunked_map, num_chunks_for_budget

# Bytes of attention scores that a TPU core holds in its vector memory (VMEM: 128 MiB on v5e and
# v6e, 16 to 32 MiB on the others).
_SCORES = 16 << 20
# Tokens from which on cuDNN's attention is taken on GPUs.
_LONG = 64


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Scaled dot-product attention; the only place that chooses how it is computed.

    query `[B, T, H, d]`, key and value `[B, S, H, d]`, mask boolean, broadcastable to
    `[B, H, T, S]` (True: attend), dropout: applied to the weights. Gives `[B, T, H, d]`.
    """

    def plain(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
        return head_major_attention(q, k, v, mask, dropout).transpose(0, 2, 1, 3)

    if mask is None and dropout is None and _cudnn_takes(query, key):
        attended = jax.lax.platform_dependent(query, key, value, cuda=_by_cudnn, default=plain)
        return checkpoint_name(attended, ATTENDED)
    return plain(query, key, value)


def _cudnn_takes(query: jax.Array, key: jax.Array) -> bool:
    """Whether a GPU's program may have cuDNN's attention, whose scores never leave the chip.

    It is asked where a program is traced, for a GPU that is there or for one that is not
    (`jaxtag.compile`).
    """
    if query.dtype != jnp.bfloat16 or min(query.shape[1], key.shape[1]) < _LONG:
        return False
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return False
    if not any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        return False
    gpus = jax.local_devices() if jax.default_backend() == "gpu" else []
    return all(float(gpu.compute_capability) >= 8.0 for gpu in gpus)


def _by_cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    cudnn = partial(jax.nn.dot_product_attention, implementation="cudnn")
    length, seen = query.shape[1], key.shape[1]
    if length % 2 == seen % 2 == 0:
        return cudnn(query, key, value)
    # JAX refuses odd lengths in training, for a bias that there is not.
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value)
    )
    lengths = [jnp.full(len(query), n, jnp.int32) for n in (length, seen)]
    attended = cudnn(
        query, key, value, query_seq_lengths=lengths[0], key_value_seq_lengths=lengths[1]
    )
    return attended[:, :length]


def head_major_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """`attention` over `[B, H, T, d]` and `[B, H, S, d]`, as a cache holds them."""
    attend = partial(_attend, mask=mask, dropout=dropout)
    # The scores of a part stay in the memory on the chip, where those of all would travel to the
    # main memory and back six times a layer.
    parts = _parts(query, key)
    if parts > 1 and dropout is None and (mask is None or mask.ndim < 4 or mask.shape[0] == 1):
        attended = jax.lax.platform_dependent(
            query, key, value, tpu=partial(chunked_map, attend, parts), default=attend
        )
    else:
        attended = attend(query, key, value)
    return checkpoint_name(attended, ATTENDED)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None,
    dropout: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum("bhtd,bhsd->bhts", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropout is not None:
        weights = dropout(weights)
    return jnp.einsum("bhts,bhsd->bhtd", weights, value)


def _parts(query: jax.Array, key: jax.Array) -> int:
    """In how many parts to attend, so that the scores of one fit `_SCORES` on each device."""
    batch, heads, length, _ = query.shape
    tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    return num_chunks_for_budget(batch, heads * length * key.shape[2] * 4 // tensor, _SCORES)


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """`[..., D] -> [..., heads, D / heads]`"""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def split_parts(x: jax.Array, heads: int) -> list[jax.Array]:
    """`[..., parts, D] -> parts x [..., heads, D / heads]`

    One split: its gradient is one concatenation, where slices would each be padded and added.
    """
    return [split_heads(p.squeeze(-2), heads) for p in jnp.split(x, x.shape[-2], axis=-2)]


def merge_heads(x: jax.Array) -> jax.Array:
    """`[..., heads, d] -> [..., heads * d]`"""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
