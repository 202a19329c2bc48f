"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167), over the global batch or parts.

Running moments are in the collection `batch_stats`; a step in training changes them, so that
`apply(…, train=True, mutable=["batch_stats"])` is how a model with it is trained. Where MOMENTS is
mutable too, it holds the moments of the batch itself afterwards, in the same tree.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

MOMENTS = "batch_moments"


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
        axes = tuple(range(1, parts.ndim - 1))
        count = parts.size // (self.groups * channels)
        if count < 2:
            raise ValueError(
                "batch norm needs more than one value a channel in training, got images of one "
                f"pixel and a batch of {batch} in {self.groups} group(s)"
            )
        values = parts.astype(jnp.float32)
        found_mean = values.mean(axes)
        found_variance = _variance(values, found_mean, axes)
        if not self.is_initializing():
            unbiased = found_variance * (count / (count - 1))
            for running, found in ((mean, found_mean), (variance, unbiased)):
                found = jax.lax.stop_gradient(found.reshape(shape))
                running.value = self.momentum * running.value + (1 - self.momentum) * found
                self.sow(MOMENTS, running.name, found, reduce_fn=_last, init_fn=_nothing)
        wide = (self.groups, *(1,) * len(axes), channels)
        moments = (found_mean.reshape(wide), found_variance.reshape(wide))
        return self._normalise(parts, *moments, scale, bias).reshape(x.shape)

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
