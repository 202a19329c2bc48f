"""Routing by agreement between capsules (Sabour, Frosst, Hinton 2017, arXiv:1710.09829).

The logit b of a lower and an upper capsule starts at 0 and grows by their agreement, u_hat . v, in
each iteration: it is the agreement with the sum of all v so far. An iteration is then one function
of (votes, that sum), whose gradient is written here: a few batched products over the votes, the
large thing, which lie as [B, C, D, N] so that these products run along N.
"""

import jax
import jax.numpy as jnp

_TINY = 1e-30  # keeps the gradient of a length finite at 0


def length(x: jax.Array) -> jax.Array:
    """Euclidean length over the last dimension, float32 `[...]`; its gradient at 0 is 0."""
    return jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum(-1) + _TINY)


def squash(x: jax.Array) -> jax.Array:
    """`[..., D] -> [..., D]` float32, of length |x|^2 / (1 + |x|^2) (equation 1)."""
    x = x.astype(jnp.float32)
    size = length(x)[..., None]
    return x / (size + 1.0 / size)


def route(votes: jax.Array, iterations: int = 3) -> jax.Array:
    """The upper capsules v that the votes agree on (procedure 1).

    The gradient flows through every iteration: the paper stops none, nor does the program that
    its authors published. Sums, softmax and squash are in float32, whatever the votes are.

    Args:
      votes: u_hat, what each of N lower capsules predicts for each of C upper ones, [B, N, C, D].
      iterations: r in the paper, at least 1.

    Returns:
      float32 [B, C, D].

    Raises:
      ValueError: no iterations.
    """
    if iterations < 1:
        raise ValueError(f"routing needs at least one iteration, got {iterations}")
    votes = votes.transpose(0, 2, 3, 1)
    classes = votes.shape[1]
    total = capsules = squash(votes.sum(-1, dtype=jnp.float32) / classes)
    for _ in range(iterations - 1):
        capsules = squash(_weigh(votes, total))
        total += capsules
    return capsules


@jax.custom_vjp
def _weigh(votes: jax.Array, total: jax.Array) -> jax.Array:
    """s = sum over N of softmax over C (votes . total) * votes: `[B, C, D, N]`, `[B, C, D]`."""
    return _weigh_forward(votes, total)[0]


def _weigh_forward(votes, total):
    shares = jax.nn.softmax(_along(votes, total), axis=1)
    return _sum(shares, votes), (votes, total, shares)


def _weigh_backward(saved, gradient):
    votes, total, shares = saved
    to_shares = _along(votes, gradient)
    to_logits = shares * (to_shares - (shares * to_shares).sum(1, keepdims=True))
    to_votes = shares[:, :, None] * gradient[..., None] + to_logits[:, :, None] * total[..., None]
    return to_votes.astype(votes.dtype), _sum(to_logits, votes)


_weigh.defvjp(_weigh_forward, _weigh_backward)


def _along(votes: jax.Array, capsules: jax.Array) -> jax.Array:
    """Each vote's product with its upper capsule: float32 `[B, C, N]`."""
    capsules = capsules.astype(votes.dtype)
    return jnp.einsum("bcdn,bcd->bcn", votes, capsules, preferred_element_type=jnp.float32)


def _sum(weights: jax.Array, votes: jax.Array) -> jax.Array:
    """The weighted sum of the votes: float32 `[B, C, D]`."""
    weights = weights.astype(votes.dtype)
    return jnp.einsum("bcn,bcdn->bcd", weights, votes, preferred_element_type=jnp.float32)
