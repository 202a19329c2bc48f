"""Backbones by name."""

import dataclasses
import difflib

import flax.linen as nn

from jaxtag.models import vit


def _backbones() -> dict[str, tuple[type[nn.Module], dict[str, int]]]:
    return {
        f"vit_{size}_patch{patch}": (vit.ViT, {"patch_size": patch, **fields})
        for size, fields in vit.SIZES.items()
        for patch in vit.PATCHES
    }


_BACKBONES = _backbones()


def names() -> list[str]:
    """The names that `create` knows, sorted."""
    return sorted(_BACKBONES)


def create(name: str, **fields: object) -> nn.Module:
    """The backbone `name`; `fields` set or override fields of its module.

    Raises ValueError for an unknown name and TypeError for an unknown field; both name the
    nearest one that exists.
    """
    if name not in _BACKBONES:
        raise ValueError(f"no model is called {name!r}{_nearest(name, names())}")
    module, defaults = _BACKBONES[name]
    known = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    for field in fields:
        if field not in known:
            raise TypeError(f"{name} has no field {field!r}{_nearest(field, known)}")
    return module(**{**defaults, **fields})


def _nearest(wrong: str, known: list[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.0)
    return f"; the nearest is {close[0]!r}" if close else ""
