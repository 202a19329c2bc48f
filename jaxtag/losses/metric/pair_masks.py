"""Which pictures a loss takes as alike: of one class, or with a tag in common.

Labels are classes, int32 [B], or the state of each tag, int8 [B, T]: ABSENT, PRESENT or UNKNOWN.
"""

import jax
import jax.numpy as jnp

ABSENT, PRESENT, UNKNOWN = 0, 1, 2


def positive_negative_masks(labels: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which of R pictures are alike to which of N others, and which are not: bool [R, N], twice.

    With tags: those that share one, and those that surely share none; some may be neither.
    """
    if labels.ndim == 1:
        same = labels[:, None] == others
        return same, ~same
    shared = _product(labels == PRESENT, others == PRESENT) > 0
    possibly = _product(labels != ABSENT, others != ABSENT) > 0
    return shared, ~possibly


def class_masks(labels: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """Which of B pictures are of which class (or have which tag), and which not: bool [B, C]."""
    if labels.ndim == 1:
        own = labels[:, None] == jnp.arange(classes)
        return own, ~own
    return labels == PRESENT, labels == ABSENT


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.matmul(first.astype(jnp.float32), second.astype(jnp.float32).T)
