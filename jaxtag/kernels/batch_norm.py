"""Batch normalization (Ioffe and Szegedy 2015, arXiv:1502.03167), over the global batch or parts.

Running moments are in the collection `batch_stats`; a training step changes them, so that a model
with it is trained by `apply(…, train=True, mutable=["batch_stats"])`. Where MOMENTS is mutable too,
it holds the moments of the batch itself afterwards, in the same tree.

On CPU oneDNN computes the gradients where it is installed (`jaxtag/kernels/onednn`).
"""

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float

from jaxtag.array_types import AnyArray
from jaxtag.distributed import mesh
from jaxtag.kernels.implementations import (
    Implementation,
    ImplementationTable,
    always,
    platform_dependent,
)
from jaxtag.kernels.onednn import batch_norm

MOMENTS = "batch_moments"
# Values from which oneDNN computes the gradients: of fewer, XLA's sums are as fast and more exact.
_ONEDNN_MIN_SIZE = 2**18

_Normalized = tuple[Array, Array, Array]  # y, means and variances of the batch


class BatchNorm(nn.Module):
    """Normalizes each channel of `[B, ..., C]`; computes in float32, returns `dtype`.

    As `torch.nn.BatchNorm2d`: normalized with the biased variance, the running one is unbiased.

    Attributes:
        momentum: fraction of the old running moments that a step keeps (torch's is 1 minus this).
        groups: parts of the global batch, in order, each with statistics of its own. With as many
            as there are devices (or one for every k devices) a step needs no exchange between them
            (between groups). Running moments then are `[groups, C]`, one row a group; inference
            takes their mean, with the variance between the groups' means counted in.
        use_scale: False: a normalized value is shifted but not scaled, there is no such parameter.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
    use_scale: bool = True
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*B C"], train: bool) -> Float[Array, "*B C"]:
        channels = x.shape[-1]
        scale: Array | float = 1.0
        if self.use_scale:
            scale = jnp.asarray(self.param("scale", self.scale_init, (channels,)))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, (channels,)))
        shape = (channels,) if self.groups == 1 else (self.groups, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            moments = population(running_mean.value, running_variance.value)
            return _normalize(x, *moments, scale, bias, self.epsilon, self.dtype)
        parts = self._split(x)
        count = parts.size // (self.groups * channels)
        y, mean, variance = self._by_batch(parts, scale, bias)
        if not self.is_initializing():
            unbiased = variance * (count / (count - 1))
            for running, value in ((running_mean, mean), (running_variance, unbiased)):
                value = jax.lax.stop_gradient(value.reshape(shape))
                running.value = self.momentum * running.value + (1 - self.momentum) * value
                self.sow(MOMENTS, running.name, value, reduce_fn=_replace, init_fn=_no_moments)
        return y.reshape(x.shape)

    def _split(self, x: AnyArray) -> Array:
        """`[B, ..., C] -> [groups, B / groups, ..., C]`. Raises ValueError where that cannot be."""
        batch = x.shape[0]
        if batch % self.groups:
            raise ValueError(
                f"a batch of {batch} does not divide into groups ({self.groups}) for batch norm"
            )
        parts = jnp.asarray(x).reshape(self.groups, -1, *x.shape[1:])
        if parts.size < 2 * self.groups * x.shape[-1]:
            raise ValueError(
                "batch norm needs more than one value a channel in training, got images of one "
                f"pixel and a batch of {batch} in {self.groups} group(s)"
            )
        return parts

    def _by_batch(self, parts: Array, scale: Array | float, bias: Array) -> _Normalized:
        """Parts `[groups, ..., C]`, normalized, and their means and variances `[groups, C]`.

        The gradient is through y alone: the moments are for the running ones.
        """
        spec = NormSpec(str(parts.dtype), parts.shape, self.epsilon, self.dtype)
        functions = NORMALIZE.functions(spec)
        if len(functions) == 1:
            return functions["default"](parts, scale, bias)
        scale = jnp.broadcast_to(scale, bias.shape)
        return platform_dependent(parts, scale, bias, **functions)


@dataclass(frozen=True)
class NormSpec:
    """The normalization of a batch in training.

    Attributes:
        dtype: of the values.
        parts: their shape, `[groups, B / groups, ..., C]`.
        result_dtype: of the normalized values.
    """

    dtype: str
    parts: tuple[int, ...]
    epsilon: float
    result_dtype: Dtype


def _normalize(
    x: AnyArray,
    mean: AnyArray,
    variance: AnyArray,
    scale: Array | float,
    bias: Array,
    epsilon: float,
    dtype: Dtype,
) -> Array:
    """One multiplication and one addition a value."""
    factor = scale * jax.lax.rsqrt(variance + epsilon)
    y = jnp.asarray(x).astype(jnp.float32) * factor + (bias - mean * factor)
    return y.astype(dtype)


def _normalize_parts(
    spec: NormSpec, parts: Array, scale: Array | float, bias: Array
) -> _Normalized:
    axes = tuple(range(1, parts.ndim - 1))
    values = parts.astype(jnp.float32)
    mean = values.mean(axes)
    variance = _variance(values, mean, axes)
    moments = jnp.expand_dims(mean, axes), jnp.expand_dims(variance, axes)
    y = _normalize(parts, *moments, scale, bias, spec.epsilon, spec.result_dtype)
    return y, mean, variance


def _onednn_spec(spec: NormSpec) -> batch_norm.Spec:
    return batch_norm.Spec(spec.dtype, spec.parts[1:], spec.epsilon)


def _onednn_applies(spec: NormSpec) -> bool:
    """Whether oneDNN's gradients are faster than XLA's, for one group of images on one CPU."""
    if jax.default_backend() != "cpu":  # tracing both forms takes a model half as long again
        return False
    if math.prod(spec.parts) < _ONEDNN_MIN_SIZE or spec.parts[0] > 1 or len(spec.parts) != 5:
        return False
    return mesh.num_batch_shards() == 1 and batch_norm.supports(_onednn_spec(spec))


def _normalize_with_onednn_gradients(
    spec: NormSpec, parts: Array, scale: Array, bias: Array
) -> _Normalized:
    """`_normalize_parts` of one part, with oneDNN's gradients of its first result."""

    @jax.custom_vjp
    def normalize(parts: Array, scale: Array, bias: Array) -> _Normalized:
        return _normalize_parts(spec, parts, scale, bias)

    def forward(
        parts: Array, scale: Array, bias: Array
    ) -> tuple[_Normalized, tuple[Array, Array, Array, Array]]:
        y, mean, variance = _normalize_parts(spec, parts, scale, bias)
        return (y, mean, variance), (parts, mean, variance, scale)

    def backward(
        residuals: tuple[Array, Array, Array, Array], gradients: _Normalized
    ) -> tuple[Array, Array, Array]:
        parts, mean, variance, scale = residuals
        gradient = gradients[0].astype(parts.dtype)
        x_gradient, scale_gradient, bias_gradient = batch_norm.gradients(
            _onednn_spec(spec), parts[0], gradient[0], mean[0], variance[0], scale
        )
        return x_gradient[None], scale_gradient, bias_gradient

    normalize.defvjp(forward, backward)
    return normalize(parts, scale, bias)


NORMALIZE: ImplementationTable[NormSpec] = ImplementationTable(
    {
        "cpu": (Implementation("onednn", _onednn_applies, _normalize_with_onednn_gradients),),
        "default": (Implementation("xla", always, _normalize_parts),),
    }
)


def _variance(values: Array, mean: Array, axes: tuple[int, ...]) -> Array:
    """`[groups, ..., C]` with its means `[groups, C]` to the biased variances `[groups, C]`.

    Accelerators sum the values and their squares in one pass. On CPU each sum is a pass of its own
    anyway, so that the second one can be over the deviations, which loses no digits.
    """

    def from_squares(values: Array, mean: Array) -> Array:
        return jnp.maximum(jnp.square(values).mean(axes) - jnp.square(mean), 0.0)

    def from_deviations(values: Array, mean: Array) -> Array:
        # What the mean adds to the gradient is a sum of deviations: 0.
        center = jax.lax.stop_gradient(jnp.expand_dims(mean, axes))
        return jnp.square(values - center).mean(axes)

    return platform_dependent(values, mean, cpu=from_deviations, default=from_squares)


def _no_moments() -> Array | None:
    """The initial value of a batch's moments."""
    return None


def _replace(_: Array | None, value: Array) -> Array:
    return value


def population(
    mean: Float[AnyArray, "*groups C"], variance: Float[AnyArray, "*groups C"]
) -> tuple[Float[AnyArray, " C"], Float[AnyArray, " C"]]:
    """The moments `[C]` of all groups together from those of each, `[groups, C]` (or `[C]`)."""
    if mean.ndim == 1:
        return mean, variance
    total = mean.mean(0)
    return total, variance.mean(0) + jnp.square(mean - total).mean(0)
