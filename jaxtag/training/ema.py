"""Moving averages of the parameters and of the model's other collections."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# (step, variables after it, their average) -> (variables to go on from, their average).
AverageUpdate = Callable[[jax.Array, Any, Any], tuple[Any, Any]]


def no_average(step: jax.Array, new: Any, average: Any) -> tuple[Any, Any]:
    """Keeps the average as it is."""
    del step
    return new, average


def ema(decay: float) -> AverageUpdate:
    """An exponential moving average after each step, which training does not see.

    The decay warms up, min(decay, (1 + t) / (10 + t)), so that the random start fades in a short
    run too.
    """

    def update(step: jax.Array, new: Any, average: Any) -> tuple[Any, Any]:
        step_decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
        return new, _interpolate(average, new, 1 - step_decay, step)

    return update


def lookahead(decay: float, every: int, total_steps: int) -> AverageUpdate:
    """Lookahead: every `every` steps an average is updated and training goes on from it.

    Zhang et al. 2019, arXiv:1907.08610, with the schedule of airbench (Jordan 2024,
    arXiv:2404.00498, section 3.4): the weight of the old average rises with the cube of the
    fraction of the run, from 0 to `decay ** every`.
    """

    def update(step: jax.Array, new: Any, average: Any) -> tuple[Any, Any]:
        fraction = jnp.minimum((step + 1) / total_steps, 1.0)
        due = (step + 1) % every == 0
        weight = jnp.where(due, 1 - decay**every * fraction**3, 0.0)
        average = _interpolate(average, new, weight, step)
        return jax.tree.map(lambda n, a: jnp.where(due, a, n), new, average), average

    return update


def _interpolate(old: Any, new: Any, weight: jax.Array, step: jax.Array) -> Any:
    """`old` moved towards `new` by `weight`, in the dtypes of `old`."""
    leaves, structure = jax.tree.flatten(old)
    moved = []
    for index, (leaf, target) in enumerate(zip(leaves, jax.tree.leaves(new), strict=True)):
        value = leaf.astype(target.dtype)
        value = value + weight * (target - value)
        moved.append(round_stochastically(value, leaf.dtype, step, index))
    return jax.tree.unflatten(structure, moved)


def round_stochastically(
    x: Float[Array, "..."], dtype: Any, step: jax.Array, index: int
) -> Float[Array, "..."]:
    """`x` in `dtype`; from float32 to bfloat16 it is rounded up or down at random, unbiased.

    The change that a decay of 0.9999 makes is less than half a unit in the last place of bfloat16:
    rounded to the nearest, such an average would never move.

    Args:
        x: finite or not; what is not finite stays as it is.
        dtype: of the result.
        step: with `index` determines the random bits.
        index: of the array among those of its tree.
    """
    if x.dtype == dtype:
        return x
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), index)
    noise = jax.random.bits(key, x.shape, jnp.uint32) >> 16
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(dtype)
