"""Random numbers for each example of the global batch, the same on any mesh."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import jax
import jax.numpy as jnp


class Part(IntEnum):
    """What a draw is for: folded into an example's key, so that no two parts share numbers."""

    FLIP = 0
    CROP = 1
    COLOUR = 2
    RANDAUGMENT = 3
    ERASING = 4
    MIXING = 5
    AFFINE = 6


def example_keys(key: jax.Array, count: int) -> jax.Array:
    """A key for each of `count` examples, by position: [count] keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))


def draw(key: jax.Array, count: int, part: Part, sample: Callable[[jax.Array], Any]) -> Any:
    """`sample(key)` for each of `count` examples, stacked along the first axis."""
    return jax.vmap(lambda k: sample(jax.random.fold_in(k, part)))(example_keys(key, count))
