"""Routing by agreement between capsules (Sabour, Frosst, Hinton 2017, arXiv:1710.09829).

The logit b of a lower and an upper capsule starts at 0 and grows by their agreement, u_hat . v, in
each iteration: it is the agreement with the sum of all v so far. An iteration is then one function
of (votes, that sum), whose gradient is written here: a few batched products over the votes, the
large thing, laid out as [B, C, D, N] so that these products run along N.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_TINY = 1e-30  # keeps the gradient of a length finite at 0


def length(x: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """Euclidean length over the last dimension, float32; its gradient at 0 is 0."""
    return jnp.sqrt(jnp.square(x.astype(jnp.float32)).sum(-1) + _TINY)


def squash(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Scales to the length |x|^2 / (1 + |x|^2) (equation 1), float32."""
    x = x.astype(jnp.float32)
    size = length(x)[..., None]
    return x / (size + 1.0 / size)


def route(votes: Float[Array, "B N C D"], iterations: int = 3) -> Float[Array, "B C D"]:
    """The upper capsules v that the votes agree on (procedure 1).

    The gradient flows through every iteration: the paper stops none, nor does the program that
    its authors published. Sums, softmax and squash are in float32, whatever the votes are.

    Args:
        votes: u_hat, the prediction of each of N lower capsules for each of C upper ones.
        iterations: r in the paper, at least 1.

    Returns:
        float32.

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
def _weigh(votes: Array, total: Array) -> Array:
    """s = sum over N of softmax over C (votes . total) * votes: `[B, C, D, N]`, `[B, C, D]`."""
    return _weigh_forward(votes, total)[0]


def _weigh_forward(votes: Array, total: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    weights = jax.nn.softmax(_agreement(votes, total), axis=1)
    return _sum(weights, votes), (votes, total, weights)


def _weigh_backward(residuals: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, Array]:
    votes, total, weights = residuals
    to_weights = _agreement(votes, gradient)
    to_logits = weights * (to_weights - (weights * to_weights).sum(1, keepdims=True))
    to_votes = weights[:, :, None] * gradient[..., None] + to_logits[:, :, None] * total[..., None]
    return to_votes.astype(votes.dtype), _sum(to_logits, votes)


_weigh.defvjp(_weigh_forward, _weigh_backward)


def _agreement(votes: Array, capsules: Array) -> Array:
    """Each vote's product with its upper capsule: float32 `[B, C, N]`."""
    capsules = capsules.astype(votes.dtype)
    return jnp.einsum("bcdn,bcd->bcn", votes, capsules, preferred_element_type=jnp.float32)


def _sum(weights: Array, votes: Array) -> Array:
    """The weighted sum of the votes: float32 `[B, C, D]`."""
    weights = weights.astype(votes.dtype)
    return jnp.einsum("bcn,bcdn->bcd", weights, votes, preferred_element_type=jnp.float32)
