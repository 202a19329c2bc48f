"""Random numbers for each example of the global batch, the same on any mesh."""

from collections.abc import Callable
from enum import IntEnum
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

_Sample = TypeVar("_Sample")


class Part(IntEnum):
    """The use of a draw, folded into an example's key, so that no two parts share numbers."""

    FLIP = 0
    CROP = 1
    COLOR = 2
    RANDAUGMENT = 3
    ERASING = 4
    MIXING = 5
    AFFINE = 6
    CUSTOM = 7


def example_keys(key: PRNGKeyArray, count: int) -> Key[Array, " {count}"]:
    """A key for each of `count` examples, by position."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))


def draw(
    key: PRNGKeyArray, count: int, part: Part, sample: Callable[[PRNGKeyArray], _Sample]
) -> _Sample:
    """`sample(key)` for each of `count` examples, stacked along the first axis."""
    return jax.vmap(lambda k: sample(jax.random.fold_in(k, part)))(example_keys(key, count))
