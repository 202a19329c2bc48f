"""Layers that the transformer families share: projections, norms, feed-forward, dropout.

All keep float32 parameters and compute in `dtype`; norms always run in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax.ad_checkpoint import checkpoint_name

from jaxtag.distributed import mesh as meshes

xavier = nn.initializers.xavier_uniform()

ATTENDED, _PROJECTED = "attended", "projected"
# What a layer keeps for the backward pass: everything; what its projections and attention gave,
# so that norms, activations and attention weights are computed again, which is little arithmetic
# for much memory traffic; or nothing but its input.
_POLICIES = jax.checkpoint_policies
REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "dots": _POLICIES.save_only_these_names(_PROJECTED, ATTENDED),
    "full": _POLICIES.nothing_saveable,
}


class Linear(nn.Module):
    """`[..., D] -> [..., *features]`, kernel `[D, *features]`, bias `[*features]`.

    A projection into several parts (query, key, value) keeps a dimension for the parts, so that
    a sharding rule over the last dimension splits heads and never mixes the parts.
    """

    features: tuple[int, ...]
    kernel_init: Initializer = xavier
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        kernel = self.param("kernel", self._init_kernel, (width, *self.features))
        bias = self.param("bias", nn.initializers.zeros, self.features)
        y = checkpoint_name(_project(x.astype(self.dtype), kernel.astype(self.dtype)), _PROJECTED)
        return y + bias.astype(self.dtype)

    def _init_kernel(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Each part is initialised as a projection of its own."""
        width, parts = shape[0], shape[1:-1]
        if not parts:
            return self.kernel_init(key, shape)
        keys = jax.random.split(key, parts[0])
        return jnp.stack([self.kernel_init(k, (width, shape[-1])) for k in keys], axis=1)


def _project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[..., D]` and `[D, *features]` to `[..., *features]`.

    On CPU over one dimension of rows: with several, XLA transposes for the kernel's gradient. On a
    TPU one dimension would cost a copy where the rows of an example do not fill whole tiles.
    """

    def in_rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = jnp.tensordot(x.reshape(-1, x.shape[-1]), kernel, 1)
        return y.reshape(*x.shape[:-1], *kernel.shape[1:])

    if x.ndim == 2:
        return in_rows(x, kernel)
    direct = partial(jnp.tensordot, axes=1)
    return jax.lax.platform_dependent(x, kernel, tpu=direct, default=in_rows)


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, computed in float32, given back in `dtype`."""

    epsilon: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        return _normalised(barrier_grad(x), scale, bias, self.epsilon).astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalised(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """`[..., D]` in any dtype to float32.

    With JAX's own gradient XLA's GPU backend writes float32 intermediates of x's size; with this
    one nothing but the gradient (a ViT-B/16 on an H200: 462 MB of traffic an image instead of 493).
    """
    return _normalise(x, scale, bias, epsilon)[0]


def _normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    mean = x.mean(-1, keepdims=True, dtype=jnp.float32)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return (x - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _normalise_gradients(
    _: float, kept: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = kept
    # Else it would look for them in x once more in each kernel, and for the scale's gradient, a sum
    # over rows, write x's size in float32.
    mean, inverse = jax.lax.platform_dependent(
        (mean, inverse), cuda=jax.lax.optimization_barrier, default=lambda rows: rows
    )
    normal = (x - mean) * inverse
    to_normal = gradient * scale
    along = (to_normal * normal).mean(-1, keepdims=True)
    to_x = inverse * (to_normal - to_normal.mean(-1, keepdims=True) - normal * along)
    rows = tuple(range(x.ndim - 1))
    return to_x.astype(x.dtype), (gradient * normal).sum(rows), gradient.sum(rows)


_normalised.defvjp(_normalise, _normalise_gradients)


@jax.custom_vjp
def barrier_grad(x: jax.Array) -> jax.Array:
    """`x`, whose gradient is computed once.

    In a residual network the gradient of each layer's input is that of the next layer's plus a
    little. XLA's CPU backend fuses that whole chain into every product that reads a link of it,
    so that the work grows with the square of the depth (a ViT-Ti captioner's step took four times
    as long). A barrier ends the chain; other backends need none and get none.
    """
    return x


def _settled_gradient(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (cpu_barrier(gradient),)


def cpu_barrier(x: jax.Array) -> jax.Array:
    """`x`, which on CPU is computed once and kept, not again in each product that reads it."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


barrier_grad.defvjp(lambda x: (x, None), _settled_gradient)


@jax.custom_vjp
def add_broadcast(x: jax.Array, shared: jax.Array) -> jax.Array:
    """x `[B, ...]` plus what all examples share, `[...]`, in x's dtype.

    The gradient of the shared part is a sum over the examples. For it XLA's GPU backend would lay
    out x, and with it the activations of every layer, with the examples innermost, and turn them
    for each product (a ViT-B/16: 606 MB of traffic an image instead of 529). A product with ones
    asks for no layout.
    """
    return x + shared.astype(x.dtype)


def _add_to_each_gradients(shared: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    plainly = partial(jnp.sum, axis=0, dtype=jnp.float32)
    summed = jax.lax.platform_dependent(gradient, cuda=_sum_by_product, default=plainly)
    return gradient, summed.astype(shared.dtype)


def _sum_by_product(x: jax.Array) -> jax.Array:
    """`[B, ...]` to its sum over B, float32 `[...]`."""
    ones = jnp.ones((1, len(x)), x.dtype)
    flat = jnp.matmul(ones, x.reshape(len(x), -1), preferred_element_type=jnp.float32)
    return flat.reshape(x.shape[1:])


add_broadcast.defvjp(lambda x, shared: (add_broadcast(x, shared), shared), _add_to_each_gradients)


class Dropout(nn.Module):
    """Zeroes a share `rate` of the elements in training; the random key is `dropout`.

    The mask is drawn with 16 bits an element, half of what `flax.linen.Dropout` draws: the rate
    is exact to 1/65536.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"dropout rate must lie in [0, 1), got {self.rate}")
        threshold = round(self.rate * 65536)
        keep = random_uint16(self.make_rng("dropout"), x.shape) >= threshold
        return jnp.where(keep, x * jnp.asarray(65536 / (65536 - threshold), x.dtype), 0)


def random_uint16(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform 16-bit numbers, two from each 32-bit word of the generator."""
    if shape[-1] % 2:
        return jax.random.bits(key, shape, jnp.uint16)
    words = jax.random.bits(key, (*shape[:-1], shape[-1] // 2), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(shape)


class DropPath(nn.Module):
    """Drops a residual branch for whole examples (stochastic depth, Huang et al. 2016).

    `rate` may be traced (a scan over layers); `[B, ...] -> [B, ...]`, key `dropout`.
    """

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array | float, train: bool) -> jax.Array:
        if not train:
            return x
        draws = jax.random.uniform(self.make_rng("dropout"), (x.shape[0],) + (1,) * (x.ndim - 1))
        keep = 1.0 - jnp.asarray(rate, jnp.float32)
        return x * jnp.where(draws < keep, 1.0 / keep, 0.0).astype(x.dtype)


def num_chunks_for_budget(batch: int, size: int, room: int) -> int:
    """The least number of equal parts of a batch of which each device's share fits into `room`.

    Args:
      batch: examples over all devices.
      size: bytes that one takes.
      room: bytes that a part may take on a device.
    """
    shards = meshes.num_batch_shards()
    own = batch // shards if batch % shards == 0 else 1
    wanted = min(own * size / room, own)
    return next(parts for parts in range(1, own + 1) if own % parts == 0 and parts >= wanted)


def chunked_map(function: Callable[..., jax.Array], parts: int, *operands: jax.Array) -> jax.Array:
    """`function` of one part of the examples after the other, forwards and backwards.

    What it makes on the way exists for one part at a time, and is computed again for its gradient.
    Every `parts`-th example is of a part, so that each device keeps its own.
    """

    def split(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    body = jax.checkpoint(lambda part: function(*part), prevent_cse=False)
    found = jax.lax.map(body, tuple(split(x) for x in operands))
    return jnp.swapaxes(found, 0, 1).reshape(operands[0].shape[0], *found.shape[2:])


def gelu_exact(x: jax.Array) -> jax.Array:
    """x * Phi(x) by erf, as PyTorch has it; `jax.nn.gelu` takes erfc, three times as costly."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


class MLP(nn.Module):
    """`[..., D] -> [..., D]` through `hidden` units."""

    hidden: int
    activation: Callable[[jax.Array], jax.Array]
    out_init: Initializer = xavier
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = self.activation(Linear((self.hidden,), dtype=self.dtype, name="fc1")(x))
        return Linear((x.shape[-1],), self.out_init, self.dtype, name="fc2")(h)


def layer_stack(
    block: type[nn.Module], *, scan: bool, remat: str, depth: int, in_axes: tuple
) -> Any:
    """The class of a block under a remat policy and, with `scan`, one scan over all layers.

    The block is called as `block(x, *inputs, train) -> (x, None)`; `in_axes` says for each of
    `inputs` whether the scan walks it (0) or shares it (`nn.broadcast`). Scanned parameters have
    a leading layer dimension. Raises ValueError for an unknown policy.
    """
    if remat not in REMAT_POLICIES:
        raise ValueError(f"remat must be one of {', '.join(REMAT_POLICIES)}; got {remat!r}")
    if remat != "none":
        # Inside a scan the loop already keeps XLA from merging the two computations.
        block = nn.remat(
            block,
            policy=REMAT_POLICIES[remat],
            prevent_cse=not scan,
            static_argnums=(2 + len(in_axes),),
        )
    if not scan:
        return block
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(*in_axes, nn.broadcast),
        length=depth,
    )


def remat_block(block: type[nn.Module], remat: str) -> type[nn.Module]:
    """The class of a convolutional block `block(x, train)` under a remat policy."""
    if remat not in REMAT_POLICIES:
        raise ValueError(f"remat must be one of {', '.join(REMAT_POLICIES)}; got {remat!r}")
    if remat == "none":
        return block
    return nn.remat(block, policy=REMAT_POLICIES[remat], static_argnums=(2,))


def backbone_outputs(
    features: jax.Array, pooled: jax.Array, num_classes: int
) -> dict[str, jax.Array]:
    """A backbone's outputs; with classes also `logits`, of a linear layer `head` (float32)."""
    outputs = {"features": features, "pooled": pooled}
    if num_classes:
        head = Linear((num_classes,), nn.initializers.zeros, name="head")
        outputs["logits"] = head(pooled.astype(jnp.float32))
    return outputs
