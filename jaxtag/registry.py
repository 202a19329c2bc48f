"""Parts by name: a registered name, or `package.module:Name` for code outside of jaxtag.

    @jaxtag.registry.register("metric", "exact_match")
    def exact_match(…): …

A value may be given as `package.module:Name` text instead; it is imported when it is resolved.
"""

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from jaxtag.errors import UsageError, did_you_mean

_T = TypeVar("_T")
_PARTS: dict[str, dict[str, Any]] = {
    "task": {
        "caption": "jaxtag.tasks.caption.task:CaptionTask",
        "classify": "jaxtag.tasks.classify.task:ClassifyTask",
        "embed": "jaxtag.tasks.embed.task:EmbedTask",
        "tag": "jaxtag.tasks.tag.task:TagTask",
    },
    "metric_writer": {
        "jsonl": "jaxtag.training.metric_writer:JsonlMetricWriter",
        "mlflow": "jaxtag.training.trackers:MlflowWriter",
        "progress": "jaxtag.training.metric_writer:ProgressWriter",
        "tensorboard": "jaxtag.training.metric_writer:TensorBoardWriter",
        "wandb": "jaxtag.training.trackers:WandbWriter",
    },
    # Fields of records that describe an image exactly, each with a metric of captions.
    "record_metric": {"scene": "jaxtag.datasets.shapes_grammar:scene_metrics"},
}


def register(kind: str, name: str) -> Callable[[_T], _T]:
    """A decorator that registers a part of a kind ("task", "loss", "metric_writer", …)."""

    def decorate(part: _T) -> _T:
        _PARTS.setdefault(kind, {})[name] = part
        return part

    return decorate


def names(kind: str) -> list[str]:
    """The registered names of a kind, sorted."""
    return sorted(_PARTS.get(kind, {}))


def resolve(kind: str, name: str, field: str) -> Any:
    """The part of a registered name, or of `package.module:Name`.

    Args:
      field: the setting that holds the name, for messages ("config.model.backbone").

    Raises:
      UsageError: there is no such part; names `field` and the nearest name.
    """
    part = _PARTS.get(kind, {}).get(name, name)
    if not isinstance(part, str):
        return part
    if ":" not in part:
        hint = did_you_mean(name, names(kind))
        raise UsageError(f"{field} = {name!r}: no {kind} of this name{hint}")
    return import_object(part, field)


def import_object(path: str, field: str) -> Any:
    """The object at `package.module:Name`. Raises UsageError naming `field` where it is absent."""
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{field} = {path!r}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, (name for name in dir(found) if not name.startswith("_")))
            raise UsageError(f"{field} = {path!r}: {module_name} has no {attribute}{hint}")
        found = getattr(found, part)
    return found
