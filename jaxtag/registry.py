"""Parts by name: a registered name, or `package.module:Name` for code outside of jaxtag.

    @jaxtag.registry.register("metric", "exact_match")
    def exact_match(…): …

A value may be given as `package.module:Name` text instead; it is imported when it is resolved.
"""

import dataclasses
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxtag.errors import UsageError, did_you_mean

_T = TypeVar("_T")
_PARTS: dict[str, dict[str, Any]] = {
    "classification_loss": {
        "margin": "jaxtag.losses.classification:margin_loss",
        "softmax": "jaxtag.losses.classification:softmax_cross_entropy",
    },
    "contrastive_loss": {
        "clip": "jaxtag.losses.contrastive:clip",
        "siglip": "jaxtag.losses.contrastive:siglip",
    },
    "metric_loss": {
        "arcface": "jaxtag.losses.metric.proxies:arcface",
        "contrastive": "jaxtag.losses.metric.pairs:contrastive",
        "multi_similarity": "jaxtag.losses.metric.pairs:multi_similarity",
        "n_pair": "jaxtag.losses.metric.pairs:n_pair",
        "proxy_anchor": "jaxtag.losses.metric.proxies:proxy_anchor",
        "triplet_all": "jaxtag.losses.metric.triplets:triplet_all",
        "triplet_hard": "jaxtag.losses.metric.triplets:triplet_hard",
        "triplet_semi_hard": "jaxtag.losses.metric.triplets:triplet_semi_hard",
    },
    "multilabel_loss": {
        "asymmetric": "jaxtag.losses.multilabel:asymmetric",
        "binary_cross_entropy": "jaxtag.losses.multilabel:binary_cross_entropy",
        "focal": "jaxtag.losses.multilabel:focal",
    },
    "task": {
        "caption": "jaxtag.tasks.caption.task:CaptionTask",
        "classify": "jaxtag.tasks.classify.task:ClassifyTask",
        "embed": "jaxtag.tasks.embed.task:EmbedTask",
        "match": "jaxtag.tasks.match.task:MatchTask",
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
    "record_metric": {"scene": "jaxtag.datasets.shapes_grammar:exact_attribute_accuracy"},
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
        raise UsageError(f"{field} = {name!r}: no {kind.replace('_', ' ')} of this name{hint}")
    return import_object(part, field)


def import_object(path: str, field: str) -> Any:
    """The object at `package.module:Name`. Raises UsageError naming `field` where it is absent."""
    module_name, _, attribute = path.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{field} = {path!r}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            hint = did_you_mean(part, (name for name in dir(value) if not name.startswith("_")))
            raise UsageError(f"{field} = {path!r}: {module_name} has no {attribute}{hint}")
        value = getattr(value, part)
    return value


def check_kwargs(
    function: Callable[..., Any], kwargs: Mapping[str, Any], field: str, label: str | None = None
) -> None:
    """Raises UsageError unless `kwargs` are keyword arguments of `function`, of the right types.

    What may be given are the keyword-only parameters and those that have a default; of a dataclass
    (a Flax module, say) its fields. A type without a check of its own (an array, a callable) is
    taken as it is unless the value is plain data that it excludes.

    Args:
        field: the setting that holds `kwargs`, for messages ("config.task.loss_kwargs").
        label: the name of `function` in messages; by default its own.
    """
    label = label or getattr(function, "__name__", repr(function))
    parameters = keyword_parameters(function)
    for name, value in kwargs.items():
        if name in parameters:
            annotation = parameters[name]
        elif "**" in parameters:
            annotation = parameters["**"]
        else:
            hint = did_you_mean(name, parameters) if parameters else " (it takes none)"
            raise UsageError(f"{field}: {label} has no argument {name!r}{hint}")
        if not has_type(value, annotation):
            expected = getattr(annotation, "__name__", "")
            if not expected or typing.get_args(annotation):
                expected = str(annotation).replace("typing.", "")
            raise UsageError(f"{field}: {label}'s {name} = {value!r}: must be {expected}")


def keyword_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that `check_kwargs` allows, with their annotations; "**": any other name."""
    annotations: dict[str, Any] = {}
    if inspect.isclass(function) and dataclasses.is_dataclass(function):
        for item in dataclasses.fields(function):
            if item.init and item.name not in ("parent", "name"):  # Flax's own
                annotations[item.name] = item.type
    else:
        for parameter in inspect.signature(function).parameters.values():
            by_name = parameter.kind is parameter.KEYWORD_ONLY or (
                parameter.kind is parameter.POSITIONAL_OR_KEYWORD
                and parameter.default is not parameter.empty
            )
            if by_name or parameter.kind is parameter.VAR_KEYWORD:
                name = parameter.name if by_name else "**"
                annotations[name] = parameter.annotation
    return {name: _evaluate(item, function) for name, item in annotations.items()}


def _evaluate(annotation: Any, function: Callable[..., Any]) -> Any:
    """An annotation as an object; `Any` where there is none or only a type checker knows it."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"value": annotation})
    try:
        hints = typing.get_type_hints(holder, vars(sys.modules[function.__module__]))
    except (AttributeError, KeyError, NameError, SyntaxError, TypeError):
        return Any
    return hints["value"]


def has_type(value: Any, annotation: Any) -> bool:
    """Whether a value is of an annotated type; an int is also a float, a bool neither.

    An annotation that says nothing about plain values (`Any`, a type variable) admits all.
    """
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(has_type(value, option) for option in inner)
    if origin is typing.Annotated:
        return has_type(value, inner[0])
    if origin is typing.Literal:
        return value in inner
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(has_type(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(has_type, value, inner))
    if origin is not None and isinstance(origin, type):
        return _has_container_type(value, origin, inner)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is complex:
        return isinstance(value, (int, float, complex)) and not isinstance(value, bool)
    if not isinstance(annotation, type):
        return True
    try:
        return isinstance(value, annotation)
    except TypeError:  # a protocol that is not checked at run time
        return True


def _has_container_type(value: Any, origin: type, inner: tuple[Any, ...]) -> bool:
    """Whether a value is a `dict[…]`, `Sequence[…]`, `Callable[…]` and what these contain fits."""
    if not isinstance(value, origin):
        return False
    if isinstance(value, str) and origin is not str:
        return False  # text is no sequence of values
    if isinstance(value, Mapping) and len(inner) == 2:
        return all(has_type(k, inner[0]) and has_type(v, inner[1]) for k, v in value.items())
    if isinstance(value, (list, tuple, set, frozenset)) and len(inner) == 1:
        return all(has_type(item, inner[0]) for item in value)
    return True
