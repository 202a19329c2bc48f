"""Losses of deep metric learning, by the names that `config.task.loss` knows."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxtag.errors import UsageError, did_you_mean
from jaxtag.losses.metric import pairs, proxies, triplets

# (embeddings [B, D], labels [B], mask [B]) → (sum, weight)
PAIRS: dict[str, Callable[..., pairs.WeightedSum]] = {
    "contrastive": pairs.contrastive,
    "multi_similarity": pairs.multi_similarity,
    "n_pair": pairs.n_pair,
    "triplet_all": triplets.triplet_all,
    "triplet_hard": triplets.triplet_hard,
    "triplet_semi_hard": triplets.triplet_semi_hard,
}
ONE_CLASS = ("arcface",)  # do not take tags
# The same with one vector for each class as the last argument [C, D].
PROXIES: dict[str, Callable[..., pairs.WeightedSum]] = {
    "arcface": proxies.arcface,
    "proxy_anchor": proxies.proxy_anchor,
}


def make_loss(name: str, arguments: Mapping[str, Any]) -> Callable[..., pairs.WeightedSum]:
    """The loss `name` with its arguments. Raises UsageError where one of them is unknown."""
    loss = (PAIRS | PROXIES)[name]
    parameters = inspect.signature(loss).parameters.values()
    known = [item.name for item in parameters if item.kind is item.KEYWORD_ONLY]
    for argument in arguments:
        if argument not in known:
            hint = did_you_mean(argument, known)
            raise UsageError(f"config.task.loss_kwargs: {name} has no argument {argument!r}{hint}")
    return functools.partial(loss, **arguments)
