"""Moving averages of the parameters and of the model's other collections."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (step, variables after it, their average) → (variables to go on from, their average).
AverageUpdate = Callable[[jax.Array, Any, Any], tuple[Any, Any]]


def no_average(step: jax.Array, new: Any, average: Any) -> tuple[Any, Any]:
    """No average."""
    del step
    return new, average


def ema(decay: float) -> AverageUpdate:
    """An exponential average after each step, which training does not see.

    It warms up, so that a short run is not held by its random start.
    """

    def update(step: jax.Array, new: Any, average: Any) -> tuple[Any, Any]:
        now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
        return new, _between(average, new, 1 - now)

    return update


def lookahead(decay: float, every: int, total_steps: int) -> AverageUpdate:
    """An average after each `every` steps, from which training goes on.

    Lookahead (Zhang et al. 2019, arXiv:1907.08610) with the schedule of airbench (Jordan 2024,
    arXiv:2404.00498, section 3.4): what is kept of the average rises with the cube of the share of
    the run, from nothing to `decay ** every`.
    """

    def update(step: jax.Array, new: Any, average: Any) -> tuple[Any, Any]:
        share = jnp.minimum((step + 1) / total_steps, 1.0)
        due = (step + 1) % every == 0
        average = _between(average, new, jnp.where(due, 1 - decay**every * share**3, 0.0))
        return jax.tree.map(lambda n, a: jnp.where(due, a, n), new, average), average

    return update


def _between(old: Any, new: Any, share: jax.Array) -> Any:
    return jax.tree.map(lambda o, n: o + share * (n - o), old, new)
