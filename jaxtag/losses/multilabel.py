"""Losses of multi-label tagging: logits -> (costs of tags that are present, of absent ones).

With z the logits and p = sigmoid(z), the asymmetric loss (Ridnik et al. 2021, arXiv:2009.14119,
equations 4 to 7)

    present: -(1 - p)^gamma_pos log(p)
    absent:  -q^gamma_neg log(1 - q), with q = max(p - clip, 0)

contains the other two: with one gamma and no clip it is focal, with gamma 0 cross-entropy.
`config.task.loss` names one of them, or a function of the same signature as `package.module:Name`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtag import registry

Costs = tuple[jax.Array, jax.Array]  # of a tag that is present, of one that is absent
MultilabelLoss = Callable[[jax.Array], Costs]


def make_loss(name: str, kwargs: Mapping[str, Any]) -> MultilabelLoss:
    """Returns the loss `name` with its keyword arguments bound.

    Raises:
        UsageError: the name or an argument is unknown, or an argument is of the wrong type.
    """
    loss = registry.resolve("multilabel_loss", name, "config.task.loss")
    registry.check_kwargs(loss, kwargs, "config.task.loss_kwargs", name)
    return functools.wraps(loss)(functools.partial(loss, **kwargs))


def asymmetric(
    logits: Float[Array, "*B"],
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Asymmetric loss, with the defaults of the paper's section 3.2."""
    log_present, log_absent = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    present = -jnp.exp(gamma_pos * log_absent) * log_present
    if clip:
        # Never 0, where a power below 1 has no gradient.
        shifted = jnp.maximum(jax.nn.sigmoid(logits) - clip, 1e-8)
        return present, -(shifted**gamma_neg) * jnp.log1p(-shifted)
    return present, -jnp.exp(gamma_neg * log_present) * log_absent


def focal(
    logits: Float[Array, "*B"], *, gamma: float = 2.0, alpha: float = 0.25
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Focal loss (Lin et al. 2017, arXiv:1708.02002, equation 5); `alpha` weights present tags."""
    present, absent = asymmetric(logits, gamma_neg=gamma, gamma_pos=gamma, clip=0.0)
    return alpha * present, (1 - alpha) * absent


def binary_cross_entropy(
    logits: Float[Array, "*B"],
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Binary cross-entropy, in nats."""
    return asymmetric(logits, gamma_neg=0.0, gamma_pos=0.0, clip=0.0)


def positive_weights(
    counts: Int[np.ndarray, " T"], num_images: int, limit: float
) -> Float[np.ndarray, " T"]:
    """Weight of each tag's presence: images without it / images with it, clipped to [1, limit].

    Args:
        counts: number of images that have each tag.
        num_images: number of all images.
        limit: the largest weight.

    Returns:
        float32 [T].
    """
    ratios = (num_images - counts) / np.maximum(counts, 1)
    return np.clip(ratios, 1.0, limit).astype(np.float32)
