"""Backbones by name, each with how it wants its pictures."""

import dataclasses
import difflib
from typing import Any

import flax.linen as nn

from jaxtag.models import (
    airbench,
    alexnet,
    capsnet,
    efficientnet,
    mobilenet,
    mobilenet_v3,
    resnet,
    squeezenet,
    vit,
)
from jaxtag.models.preprocessing import Preprocessing

# Each family's table: name -> (module, its fields, preprocessing).
_FAMILIES = (
    alexnet,
    capsnet,
    efficientnet,
    mobilenet,
    mobilenet_v3,
    resnet,
    airbench,
    squeezenet,
    vit,
)
_MODELS: dict[str, tuple[type[nn.Module], dict[str, Any], Preprocessing]] = {
    name: entry for family in _FAMILIES for name, entry in family.MODELS.items()
}


def list_models() -> list[str]:
    """The names that `create` knows, sorted."""
    return sorted(_MODELS)


def create_model(name: str, **fields: object) -> nn.Module:
    """The backbone `name`; `fields` set or override fields of its module.

    Raises ValueError for an unknown name and TypeError for an unknown field; both name the
    nearest one that exists.
    """
    module, defaults, _ = _entry(name)
    known = field_names(name)
    for field in fields:
        if field not in known:
            raise TypeError(f"{name} has no field {field!r}{_nearest(field, known)}")
    return module(**{**defaults, **fields})


def get_preprocessing(name: str) -> Preprocessing:
    """How the backbone `name` wants its pictures. Raises ValueError for an unknown name."""
    return _entry(name)[2]


def field_names(name: str) -> list[str]:
    """The fields that `create(name, …)` takes."""
    module = _entry(name)[0]
    return [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]


def _entry(name: str) -> tuple[type[nn.Module], dict[str, Any], Preprocessing]:
    if name not in _MODELS:
        raise ValueError(f"no model is called {name!r}{_nearest(name, list_models())}")
    return _MODELS[name]


def _nearest(wrong: str, known: list[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.0)
    return f"; the nearest is {close[0]!r}" if close else ""
