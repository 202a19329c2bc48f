"""Moving averages of the parameters and of the model's other collections."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

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
        return new, _interpolate(average, new, 1 - step_decay)

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
        average = _interpolate(average, new, jnp.where(due, 1 - decay**every * fraction**3, 0.0))
        return jax.tree.map(lambda n, a: jnp.where(due, a, n), new, average), average

    return update


def _interpolate(old: Any, new: Any, weight: jax.Array) -> Any:
    return jax.tree.map(lambda o, n: o + weight * (n - o), old, new)
