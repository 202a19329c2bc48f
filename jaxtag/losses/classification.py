"""Losses of single-label classification: `(logits [B, C], targets [B, C], label_smoothing) -> [B]`.

`config.task.loss` names one of these ("softmax", "margin") or a function of the same signature as
`package.module:Name`; its keyword-only parameters are what `config.task.loss_kwargs` may set.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtag import registry

ClassificationLoss = Callable[[jax.Array, jax.Array, float], jax.Array]

PRESENT = 0.9  # m+: minimum capsule length of a class that is present
ABSENT = 0.1  # m-: maximum capsule length of a class that is absent
ABSENT_WEIGHT = 0.5  # lambda


def make_loss(name: str, kwargs: Mapping[str, Any]) -> ClassificationLoss:
    """Returns the loss `name` with its keyword arguments bound.

    Raises:
        UsageError: the name or an argument is unknown, or an argument is of the wrong type.
    """
    loss = registry.resolve("classification_loss", name, "config.task.loss")
    registry.check_kwargs(loss, kwargs, "config.task.loss_kwargs", name)
    return functools.wraps(loss)(functools.partial(loss, **kwargs))


def softmax_cross_entropy(
    logits: Float[Array, "B C"], targets: Float[Array, "B C"], label_smoothing: float = 0.0, /
) -> Float[Array, " B"]:
    """Cross-entropy in nats between the softmax of the logits and smoothed target distributions.

    Args:
        targets: probabilities of the classes; one-hot, or mixtures of one-hot rows.
        label_smoothing: probability mass that is spread evenly over all C classes.

    Returns:
        float32 [B].
    """
    if label_smoothing:
        targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def margin_loss(
    lengths: Float[Array, "B C"],
    labels: Int[Array, " B"] | Float[Array, "B C"],
    label_smoothing: float = 0.0,
    /,
) -> Float[Array, " B"]:
    """Margin loss of capsule networks (Sabour et al. 2017, arXiv:1710.09829, section 3).

    The sum over classes of T max(0, m+ - |v|)^2 + lambda (1 - T) max(0, |v| - m-)^2.

    Args:
        lengths: |v|, lengths of the class capsules.
        labels: class indices, or T itself: several classes may be present, or fractions of them.
        label_smoothing: has no effect here.

    Returns:
        float32 [B].
    """
    lengths = lengths.astype(jnp.float32)
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, lengths.shape[-1])
    present = jnp.square(jnp.maximum(PRESENT - lengths, 0.0))
    absent = jnp.square(jnp.maximum(lengths - ABSENT, 0.0))
    return (labels * present + ABSENT_WEIGHT * (1.0 - labels) * absent).sum(-1)
