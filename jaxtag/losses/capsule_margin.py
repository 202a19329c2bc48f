"""The margin loss of capsule networks (Sabour et al. 2017, arXiv:1710.09829, section 3)."""

import jax
import jax.numpy as jnp

PRESENT = 0.9  # m+: a class that is there has a capsule at least this long
ABSENT = 0.1  # m-: one that is not has one at most this long
ABSENT_WEIGHT = 0.5  # lambda


def margin_loss(lengths: jax.Array, labels: jax.Array) -> jax.Array:
    """The sum over the classes of T max(0, m+ - |v|)^2 + lambda (1 - T) max(0, |v| - m-)^2.

    Args:
      lengths: of the class capsules, [B, C].
      labels: int32 [B], or T itself, [B, C]: several classes may be there, or shares of them.

    Returns:
      float32 [B].
    """
    lengths = lengths.astype(jnp.float32)
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, lengths.shape[-1])
    present = jnp.square(jnp.maximum(PRESENT - lengths, 0.0))
    absent = jnp.square(jnp.maximum(lengths - ABSENT, 0.0))
    return (labels * present + ABSENT_WEIGHT * (1.0 - labels) * absent).sum(-1)
