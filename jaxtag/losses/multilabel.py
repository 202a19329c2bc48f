"""Losses of multi-label tagging, by the names that `config.task.loss` knows.

Each gives, for logits z and p = sigmoid(z), what a tag costs where it is present and where it is
absent. The asymmetric loss (Ridnik et al. 2021, arXiv:2009.14119, equations 4 to 7)

    present: -(1 - p)^gamma_pos log(p)
    absent:  -q^gamma_neg log(1 - q), with q = max(p - clip, 0)

holds the other two: with one gamma and no clip it is focal, with gamma 0 cross-entropy.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtag.errors import UsageError, did_you_mean

Costs = tuple[jax.Array, jax.Array]  # where a tag is present, and where it is absent


def asymmetric(
    logits: jax.Array, *, gamma_neg: float = 4.0, gamma_pos: float = 0.0, clip: float = 0.05
) -> Costs:
    """The defaults are those of the paper's section 3.2; costs in the shape of `logits`."""
    log_present, log_absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    present = -jnp.exp(gamma_pos * log_absent) * log_present
    if clip:
        # Never 0, where a power below 1 has no gradient.
        shifted = jnp.maximum(jax.nn.sigmoid(logits) - clip, 1e-8)
        return present, -(shifted**gamma_neg) * jnp.log1p(-shifted)
    return present, -jnp.exp(gamma_neg * log_present) * log_absent


def focal(logits: jax.Array, *, gamma: float = 2.0, alpha: float = 0.25) -> Costs:
    """Lin et al. 2017, arXiv:1708.02002, equation 5: alpha weighs the tags that are present."""
    present, absent = asymmetric(logits, gamma_neg=gamma, gamma_pos=gamma, clip=0.0)
    return alpha * present, (1 - alpha) * absent


def binary_cross_entropy(logits: jax.Array) -> Costs:
    """In nats."""
    return asymmetric(logits, gamma_neg=0.0, gamma_pos=0.0, clip=0.0)


LOSSES: dict[str, Callable[..., Costs]] = {
    "asymmetric": asymmetric,
    "binary_cross_entropy": binary_cross_entropy,
    "focal": focal,
}


def make_loss(name: str, arguments: Mapping[str, Any]) -> Callable[[jax.Array], Costs]:
    """The loss `name` with its arguments. Raises UsageError where one of them is unknown."""
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    known = [item.name for item in parameters if item.kind is item.KEYWORD_ONLY]
    for argument in arguments:
        if argument not in known:
            hint = did_you_mean(argument, known) if known else ""
            raise UsageError(f"config.task.loss_kwargs: {name} has no argument {argument!r}{hint}")
    return functools.partial(LOSSES[name], **arguments)


def positive_weights(counts: np.ndarray, pictures: int, limit: float) -> np.ndarray:
    """What the presence of each tag weighs: pictures without it / with it, from 1 to `limit`.

    Args:
      counts: pictures that have each tag, int [T].
      pictures: how many there are.

    Returns:
      float32 [T].
    """
    ratios = (pictures - counts) / np.maximum(counts, 1)
    return np.clip(ratios, 1.0, limit).astype(np.float32)
