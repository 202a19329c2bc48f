"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167), over the global batch or parts.

Running moments are in the collection `batch_stats`; a step in training changes them, so that
`apply(…, train=True, mutable=["batch_stats"])` is how a model with it is trained. Where MOMENTS is
mutable too, it holds the moments of the batch itself afterwards, in the same tree.

On CPU oneDNN computes the gradients where it is installed (`jaxtag/onednn`).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from jaxtag.distributed import mesh as meshes
from jaxtag.kernels.onednn import batch_norm

MOMENTS = "batch_moments"
# Values from which oneDNN computes the gradients: of fewer, XLA's sums are as fast and more exact.
_MANY = 2**18


class BatchNorm(nn.Module):
    """Normalises each channel of `[B, ..., C]`, computed in float32, given back in `dtype`.

    As `torch.nn.BatchNorm2d`: normalised with the biased variance, the running one is unbiased.

    Fields:
      momentum: share of the old running moments that a step keeps (torch's is 1 minus this).
      groups: parts of the global batch, in order, each with statistics of its own. With as many
        as there are devices (or one for every k devices) a step needs no exchange between them
        (between groups). Running moments then are `[groups, C]`, one row a group; inference takes
        their mean, with the variance between the groups' means counted in.
      use_scale: False: a normalised value is shifted but not scaled, there is no such parameter.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    groups: int = 1
    use_scale: bool = True
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,)) if self.use_scale else 1.0
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        shape = (channels,) if self.groups == 1 else (self.groups, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            moments = population(mean.value, variance.value)
            return self._normalise(x, *moments, scale, bias)
        batch = x.shape[0]
        if batch % self.groups:
            raise ValueError(
                f"a batch of {batch} does not divide into groups ({self.groups}) for batch norm"
            )
        parts = x.reshape(self.groups, -1, *x.shape[1:])
        count = parts.size // (self.groups * channels)
        if count < 2:
            raise ValueError(
                "batch norm needs more than one value a channel in training, got images of one "
                f"pixel and a batch of {batch} in {self.groups} group(s)"
            )
        y, found_mean, found_variance = self._by_batch(parts, scale, bias)
        if not self.is_initializing():
            unbiased = found_variance * (count / (count - 1))
            for running, found in ((mean, found_mean), (variance, unbiased)):
                found = jax.lax.stop_gradient(found.reshape(shape))
                running.value = self.momentum * running.value + (1 - self.momentum) * found
                self.sow(MOMENTS, running.name, found, reduce_fn=_last, init_fn=_nothing)
        return y.reshape(x.shape)

    def _by_batch(
        self, parts: jax.Array, scale: jax.Array | float, bias: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Parts `[groups, ..., C]`, normalised, and their means and variances `[groups, C]`.

        The gradient is through y alone: the moments are for the running ones.
        """

        def plain(parts, scale, bias):
            axes = tuple(range(1, parts.ndim - 1))
            values = parts.astype(jnp.float32)
            mean = values.mean(axes)
            variance = _variance(values, mean, axes)
            moments = jnp.expand_dims(mean, axes), jnp.expand_dims(variance, axes)
            return self._normalise(parts, *moments, scale, bias), mean, variance

        gradients = _by_onednn(parts, self.epsilon)
        if gradients is None:
            return plain(parts, scale, bias)
        scale = jnp.broadcast_to(scale, bias.shape)
        forms = {"cpu": _with_gradients(plain, gradients), "default": plain}
        return jax.lax.platform_dependent(parts, scale, bias, **forms)

    def _normalise(
        self,
        x: jax.Array,
        mean: jax.Array,
        variance: jax.Array,
        scale: jax.Array | float,
        bias: jax.Array,
    ) -> jax.Array:
        """One multiplication and one addition a value."""
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        y = x.astype(jnp.float32) * factor + (bias - mean * factor)
        return y.astype(self.dtype)


def _by_onednn(parts: jax.Array, epsilon: float) -> batch_norm.Gradients | None:
    """A function for the gradients on CPU, where it is faster than XLA's."""
    if jax.default_backend() != "cpu":  # tracing both forms takes a model half as long again
        return None
    if parts.size < _MANY or parts.shape[0] > 1 or parts.ndim != 5 or meshes.num_batch_shards() > 1:
        return None
    return batch_norm.form(batch_norm.Spec(str(parts.dtype), parts.shape[1:], epsilon))


def _with_gradients(normalise: Callable, gradients: batch_norm.Gradients) -> Callable:
    """`normalise`, of one part, with those gradients of its first result."""

    def forward(parts, scale, bias):
        y, mean, variance = normalise(parts, scale, bias)
        return (y, mean, variance), (parts, mean, variance, scale)

    def backward(saved, results):
        parts, mean, variance, scale = saved
        gradient = results[0].astype(parts.dtype)
        to_x, *others = gradients(parts[0], gradient[0], mean[0], variance[0], scale)
        return to_x[None], *others

    function = jax.custom_vjp(normalise)
    function.defvjp(forward, backward)
    return function


def _variance(values: jax.Array, mean: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """`[groups, ..., C]` with its means `[groups, C]` to the biased variances `[groups, C]`.

    Accelerators sum the values and their squares in one pass. On CPU each sum is a pass of its own
    anyway, so that the second one can be of the deviations, which loses no digits.
    """

    def of_squares(values: jax.Array, mean: jax.Array) -> jax.Array:
        return jnp.maximum(jnp.square(values).mean(axes) - jnp.square(mean), 0.0)

    def of_deviations(values: jax.Array, mean: jax.Array) -> jax.Array:
        # What the mean adds to the gradient is a sum of deviations: 0.
        around = jax.lax.stop_gradient(jnp.expand_dims(mean, axes))
        return jnp.square(values - around).mean(axes)

    return jax.lax.platform_dependent(values, mean, cpu=of_deviations, default=of_squares)


def _nothing() -> None:
    """What a batch's moments are before it was seen."""


def _last(_: None, found: jax.Array) -> jax.Array:
    return found


def population(mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The moments `[C]` of all groups together from those of each, `[groups, C]` (or `[C]`)."""
    if mean.ndim == 1:
        return mean, variance
    together = mean.mean(0)
    return together, variance.mean(0) + jnp.square(mean - together).mean(0)
