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
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt16

from jaxtag.array_types import AnyArray
from jaxtag.distributed import mesh
from jaxtag.kernels.implementations import platform_dependent

xavier = nn.initializers.xavier_uniform()

ATTENDED, _PROJECTED = "attended", "projected"
# What a layer saves for the backward pass: everything; the outputs of its projections and
# attention, so that norms, activations and attention weights are computed again, which is little
# arithmetic for much memory traffic; or nothing but its input.
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
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*B D"]) -> Float[Array, "..."]:
        width = x.shape[-1]
        kernel = self.param("kernel", self._init_kernel, (width, *self.features))
        x, kernel = (jnp.asarray(array).astype(self.dtype) for array in (x, kernel))
        y = checkpoint_name(_project(x, kernel), _PROJECTED)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, self.features)
        return y + bias.astype(self.dtype)

    def _init_kernel(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        """Initializes each part as a projection of its own."""
        width, parts = shape[0], shape[1:-1]
        if not parts:
            return self.kernel_init(key, shape)
        keys = jax.random.split(key, parts[0])
        return jnp.stack([self.kernel_init(k, (width, shape[-1])) for k in keys], axis=1)


def _project(x: Array, kernel: Array) -> Array:
    """`[..., D]` and `[D, *features]` to `[..., *features]`.

    On CPU over one dimension of rows: with several, XLA transposes for the kernel's gradient. On a
    TPU one dimension would cost a copy where the rows of an example do not fill whole tiles.
    """

    def over_rows(x: Array, kernel: Array) -> Array:
        y = jnp.tensordot(x.reshape(-1, x.shape[-1]), kernel, 1)
        return y.reshape(*x.shape[:-1], *kernel.shape[1:])

    if x.ndim == 2:
        return over_rows(x, kernel)
    direct = partial(jnp.tensordot, axes=1)
    return platform_dependent(x, kernel, tpu=direct, default=over_rows)


class LayerNorm(nn.Module):
    """Layer normalization over the last dimension; computes in float32, returns `dtype`."""

    epsilon: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        width = x.shape[-1]
        scale = jnp.asarray(self.param("scale", nn.initializers.ones, (width,)))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (width,)))
        return _layer_norm(barrier_grad(x), scale, bias, self.epsilon).astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """`[..., D]` in any dtype to float32.

    With JAX's own gradient XLA's GPU backend writes float32 intermediates of x's size; with this
    one nothing but the gradient (a ViT-B/16 on an H200: 462 MB of traffic an image instead of 493).
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    mean = x.mean(-1, keepdims=True, dtype=jnp.float32)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return (x - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _layer_norm_backward(
    _: float, residuals: tuple[Array, Array, Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, mean, inverse, scale = residuals
    # Else XLA would compute them from x once more in each kernel, and for the scale's gradient, a
    # sum over rows, write x's size in float32.
    mean, inverse = platform_dependent(
        (mean, inverse), cuda=jax.lax.optimization_barrier, default=lambda moments: moments
    )
    normalized = (x - mean) * inverse
    normalized_gradient = gradient * scale
    projection = (normalized_gradient * normalized).mean(-1, keepdims=True)
    x_gradient = inverse * (
        normalized_gradient - normalized_gradient.mean(-1, keepdims=True) - normalized * projection
    )
    rows = tuple(range(x.ndim - 1))
    return x_gradient.astype(x.dtype), (gradient * normalized).sum(rows), gradient.sum(rows)


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def barrier_grad(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Identity whose gradient is wrapped in an optimization barrier (CPU only).

    In a residual network the gradient of each layer's input is that of the next layer's plus a
    little. XLA's CPU backend fuses that whole chain into every product that reads a link of it,
    so that the work grows with the square of the depth (a ViT-Ti captioner's step took four times
    as long). A barrier ends the chain; other backends need none and get none.
    """
    return x


def _barrier_grad_backward(_: None, gradient: Array) -> tuple[Array]:
    return (cpu_barrier(gradient),)


def cpu_barrier(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Identity that on CPU is computed once, not again in each product that reads it."""
    return platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


barrier_grad.defvjp(lambda x: (x, None), _barrier_grad_backward)


@jax.custom_vjp
def add_broadcast(
    x: Float[Array, "B ..."], shared: Float[AnyArray, "..."]
) -> Float[Array, "B ..."]:
    """Adds to each example what all share, in x's dtype.

    The gradient of the shared part is a sum over the examples. For it XLA's GPU backend would lay
    out x, and with it the activations of every layer, with the examples innermost, and transpose
    them for each product (a ViT-B/16: 606 MB of traffic an image instead of 529). A product with
    ones asks for no layout.
    """
    return x + shared.astype(x.dtype)


def _add_broadcast_backward(shared: AnyArray, gradient: Array) -> tuple[Array, Array]:
    plain = partial(jnp.sum, axis=0, dtype=jnp.float32)
    total = platform_dependent(gradient, cuda=_sum_by_product, default=plain)
    return gradient, total.astype(shared.dtype)


def _sum_by_product(x: Array) -> Array:
    """`[B, ...]` to its sum over B, float32 `[...]`."""
    ones = jnp.ones((1, len(x)), x.dtype)
    flat = jnp.matmul(ones, x.reshape(len(x), -1), preferred_element_type=jnp.float32)
    return flat.reshape(x.shape[1:])


add_broadcast.defvjp(lambda x, shared: (add_broadcast(x, shared), shared), _add_broadcast_backward)


class Dropout(nn.Module):
    """Zeroes a fraction `rate` of the elements in training; the random key is `dropout`.

    The mask is drawn with 16 bits an element, half of what `flax.linen.Dropout` draws: the rate
    is exact to 1/65536.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*B"], train: bool) -> Float[Array, "*B"]:
        if not train or self.rate == 0.0:
            return x
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"dropout rate must lie in [0, 1), got {self.rate}")
        threshold = round(self.rate * 65536)
        keep = random_uint16(self.make_rng("dropout"), x.shape) >= threshold
        return jnp.where(keep, x * jnp.asarray(65536 / (65536 - threshold), x.dtype), 0)


def random_uint16(key: PRNGKeyArray, shape: tuple[int, ...]) -> UInt16[Array, "*shape"]:
    """Uniform 16-bit numbers, two from each 32-bit integer of the generator."""
    if shape[-1] % 2:
        return jax.random.bits(key, shape, jnp.uint16)
    pairs = jax.random.bits(key, (*shape[:-1], shape[-1] // 2), jnp.uint32)
    return jax.lax.bitcast_convert_type(pairs, jnp.uint16).reshape(shape)


class DropPath(nn.Module):
    """Drops a residual branch for whole examples (stochastic depth, Huang et al. 2016).

    `rate` may be traced (a scan over layers); the random key is `dropout`.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B ..."], rate: Float[Array, ""] | float, train: bool
    ) -> Float[Array, "B ..."]:
        if not train:
            return x
        draws = jax.random.uniform(self.make_rng("dropout"), (x.shape[0],) + (1,) * (x.ndim - 1))
        keep = 1.0 - jnp.asarray(rate, jnp.float32)
        return x * jnp.where(draws < keep, 1.0 / keep, 0.0).astype(x.dtype)


def num_chunks_for_budget(batch: Any, num_bytes: Any, budget: int) -> int:
    """The least number of equal chunks of a batch of which each device's share fits the budget.

    Args:
        batch: examples over all devices; of a symbolic number there is one chunk.
        num_bytes: of one example.
        budget: bytes that a chunk may take on a device.
    """
    if not isinstance(batch, int):
        return 1
    shards = mesh.num_batch_shards()
    own = batch // shards if batch % shards == 0 else 1
    least = min(own * num_bytes / budget, own)
    return next(chunks for chunks in range(1, own + 1) if own % chunks == 0 and chunks >= least)


def chunked_map(function: Callable[..., Array], chunks: int, *operands: Array) -> Array:
    """Maps `function` over chunks of the examples one after the other, forwards and backwards.

    Its intermediates exist for one chunk at a time, and are computed again for its gradient. Every
    `chunks`-th example is of a chunk, so that each device keeps its own.
    """

    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // chunks, chunks, *x.shape[1:]), 0, 1)

    body = jax.checkpoint(lambda chunk: function(*chunk), prevent_cse=False)
    results = jax.lax.map(body, tuple(split(x) for x in operands))
    return jnp.swapaxes(results, 0, 1).reshape(operands[0].shape[0], *results.shape[2:])


def gelu_exact(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """x * Phi(x) by erf, as PyTorch has it; `jax.nn.gelu` takes erfc, three times as costly."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * jnp.asarray(0.5**0.5, x.dtype)))


def quick_gelu(x: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """x * sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


# By transformers' names; "gelu_tanh" is its gelu_pytorch_tanh.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu_exact,
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": quick_gelu,
}


def get_activation(name: str) -> Callable[[Array], Array]:
    """The activation by its name in `ACTIVATIONS`. Raises ValueError for an unknown one."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """Two projections with an activation between, through `hidden` units."""

    hidden: int
    activation: Callable[[Array], Array]
    out_init: Initializer = xavier
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        h = self.activation(Linear((self.hidden,), dtype=self.dtype, name="fc1")(x))
        return Linear((x.shape[-1],), self.out_init, self.dtype, name="fc2")(h)


class SwiGLU(nn.Module):
    """silu(x W1) * (x W2), projected (Shazeer 2020, arXiv:2002.05202), through `hidden` units."""

    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        gated = Linear((2, self.hidden), dtype=self.dtype, name="fc1")(x)
        gate, value = (part.squeeze(-2) for part in jnp.split(gated, 2, axis=-2))
        return Linear((x.shape[-1],), dtype=self.dtype, name="fc2")(jax.nn.silu(gate) * value)


def layer_stack(
    block: type[nn.Module], *, scan: bool, remat: str, depth: int, in_axes: tuple[Any, ...]
) -> Any:
    """The class of a block under a remat policy and, with `scan`, one scan over all layers.

    The block is called as `block(x, *inputs, train) -> (x, None)`. Scanned parameters have a
    leading layer dimension.

    Args:
        in_axes: for each of `inputs`, whether the scan walks it (0) or shares it (`nn.broadcast`).

    Raises:
        ValueError: the policy is unknown.
    """
    if remat != "none":
        # Inside a scan the loop already keeps XLA from merging the two computations.
        block = nn.remat(
            block,
            policy=_remat_policy(remat),
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
    """The class of a convolutional block `block(x, train)` under a remat policy.

    Raises:
        ValueError: the policy is unknown.
    """
    if remat == "none":
        return block
    return nn.remat(block, policy=_remat_policy(remat), static_argnums=(2,))


def _remat_policy(name: str) -> Any:
    if name not in REMAT_POLICIES:
        raise ValueError(f"remat must be one of {', '.join(REMAT_POLICIES)}; got {name!r}")
    return REMAT_POLICIES[name]


def backbone_outputs(
    features: Float[Array, "B *N D"], pooled: Float[Array, "B P"], num_classes: int
) -> dict[str, Array]:
    """A backbone's outputs; with classes also `logits`, of a linear layer `head` (float32)."""
    outputs = {"features": features, "pooled": pooled}
    if num_classes:
        head = Linear((num_classes,), nn.initializers.zeros, name="head")
        outputs["logits"] = head(pooled.astype(jnp.float32))
    return outputs
