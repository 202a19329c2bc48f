"""Model registry: name -> module, default fields, preprocessing.

    @register_model("my_net", preprocessing=Preprocessing(224))
    class MyNet(nn.Module): …

A model of a module that jaxtag does not import is named `package.module:Name`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn

from jaxtag import registry
from jaxtag.errors import UsageError, did_you_mean
from jaxtag.models.preprocessing import Preprocessing

_Module = TypeVar("_Module", bound=type[nn.Module])


class ModelEntry(NamedTuple):
    """A registered model.

    Attributes:
        module: the class; maps images [B, H, W, C] to a dictionary of outputs, at least `features`
            and `pooled` [B, D], and `logits` [B, num_classes] where `num_classes` is not 0.
        fields: defaults of the module's fields under this name.
        preprocessing: how the model takes its images.
    """

    module: type[nn.Module]
    fields: dict[str, Any]
    preprocessing: Preprocessing


_MODELS: dict[str, ModelEntry] = {}
_ALIASES = {"airbench": "airbench94"}  # names of jaxtag 0.1


def register_model(
    name: str, preprocessing: Preprocessing | None = None, **fields: Any
) -> Callable[[_Module], _Module]:
    """A decorator that registers a module class as a backbone.

    Args:
        preprocessing: how it takes its images; by default 224 pixels, normalized as ImageNet's.
        fields: defaults of the module's fields under this name.
    """

    def decorate(module: _Module) -> _Module:
        _MODELS[name] = ModelEntry(module, fields, preprocessing or Preprocessing())
        return module

    return decorate


def list_models() -> list[str]:
    """The names of the registered models, sorted."""
    return sorted(_MODELS)


def create_model(name: str, **fields: object) -> nn.Module:
    """The backbone `name`; `fields` set or override fields of its module.

    Args:
        name: of `list_models()`, or `package.module:Name`.

    Raises:
        ValueError: the name is unknown.
        TypeError: a field is unknown. Both name the nearest one that exists.
    """
    entry = _entry(name)
    names = field_names(name)
    for field in fields:
        if field not in names:
            hint = did_you_mean(field, names, cutoff=0.0)
            raise TypeError(f"{name} has no field {field!r}{hint}")
    return entry.module(**{**entry.fields, **fields})


def get_preprocessing(name: str) -> Preprocessing:
    """How the backbone `name` takes its images. Raises ValueError for an unknown name."""
    return _entry(name).preprocessing


def field_names(name: str) -> list[str]:
    """The fields that `create_model(name, …)` takes."""
    fields = dataclasses.fields(_entry(name).module)
    return [field.name for field in fields if field.name not in ("parent", "name")]


def module_class(name: str) -> type[nn.Module]:
    """The class of the backbone `name`."""
    return _entry(name).module


def _entry(name: str) -> ModelEntry:
    name = _ALIASES.get(name, name)
    if name in _MODELS:
        return _MODELS[name]
    if ":" not in name:
        raise ValueError(f"no model is called {name!r}{did_you_mean(name, list_models(), 0.0)}")
    try:
        module = registry.import_object(name, "model")
    except UsageError as error:
        raise ValueError(str(error)) from error
    preprocessing = getattr(module, "PREPROCESSING", None) or Preprocessing()
    return ModelEntry(module, {}, preprocessing)
