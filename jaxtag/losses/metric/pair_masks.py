"""Which images of a batch are positives of each other: of one class, or with a tag in common.

Labels are class indices, int32 [B], or the state of each tag, int8 [B, T]: ABSENT, PRESENT or
UNKNOWN.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Int8

ABSENT, PRESENT, UNKNOWN = 0, 1, 2


def positive_negative_masks(
    labels: Int[Array, " R"] | Int8[Array, "R T"], others: Int[Array, " N"] | Int8[Array, "N T"]
) -> tuple[Bool[Array, "R N"], Bool[Array, "R N"]]:
    """Returns which of N other images are positives of each of R images, and which negatives.

    With tags, positives share a tag, and negatives certainly share none: a pair whose tags are
    partly unknown may be neither.
    """
    if labels.ndim == 1:
        same = labels[:, None] == others
        return same, ~same
    shared = _product(labels == PRESENT, others == PRESENT) > 0
    possibly_shared = _product(labels != ABSENT, others != ABSENT) > 0
    return shared, ~possibly_shared


def class_masks(
    labels: Int[Array, " B"] | Int8[Array, "B C"], num_classes: int
) -> tuple[Bool[Array, "B C"], Bool[Array, "B C"]]:
    """Returns which images are of each class (or have each tag), and which are not."""
    if labels.ndim == 1:
        own = labels[:, None] == jnp.arange(num_classes)
        return own, ~own
    return labels == PRESENT, labels == ABSENT


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.matmul(first.astype(jnp.float32), second.astype(jnp.float32).T)
