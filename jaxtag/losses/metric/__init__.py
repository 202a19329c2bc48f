"""Losses of deep metric learning: `(embeddings [B, D], labels, mask [B]) -> (sum, weight)`.

The loss is sum / weight. `config.task.loss` names one of them, or a function of the same signature
as `package.module:Name`; its keyword-only parameters are what `config.task.loss_kwargs` may set. A
loss decorated with `against_proxies` takes one learned vector per class, [C, D], as its fourth
argument.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from jaxtag import registry
from jaxtag.losses.metric.pairs import WeightedSum
from jaxtag.losses.metric.proxies import against_proxies

__all__ = ["MetricLoss", "against_proxies", "is_single_class", "make_loss", "needs_proxies"]

MetricLoss = Callable[..., WeightedSum]


def make_loss(name: str, kwargs: Mapping[str, Any]) -> MetricLoss:
    """Returns the loss `name` with its keyword arguments bound.

    Raises:
        UsageError: the name or an argument is unknown, or an argument is of the wrong type.
    """
    loss = registry.resolve("metric_loss", name, "config.task.loss")
    registry.check_kwargs(loss, kwargs, "config.task.loss_kwargs", name)
    return functools.wraps(loss)(functools.partial(loss, **kwargs))


def needs_proxies(loss: MetricLoss) -> bool:
    """Whether a loss takes one learned vector per class, [C, D], as its fourth argument."""
    return getattr(loss, "needs_proxies", False)


def is_single_class(loss: MetricLoss) -> bool:
    """Whether a loss takes only class indices [B] as labels, not sets of tags [B, T]."""
    return getattr(loss, "single_class", False)
