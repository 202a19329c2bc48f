"""Fields of a configuration by their dotted names, such as `model.backbone`."""

import dataclasses
import difflib
import types
import typing
from typing import Any

from jaxtag import registry
from jaxtag.config.schema import Config
from jaxtag.errors import UsageError, did_you_mean


def field_names(config: Any, prefix: str = "") -> list[str]:
    """All dotted names of the fields that hold values."""
    names = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            names += field_names(value, f"{prefix}{item.name}.")
        else:
            names.append(prefix + item.name)
    return names


def check_name(config: Config, dotted: str) -> None:
    """Raises UsageError unless `dotted` names a field of `config`, or a keyword argument."""
    names = field_names(config)
    if dotted in names or split_kwargs(config, dotted)[0] is not None:
        return
    tail = {name.rsplit(".", 1)[-1]: name for name in names}
    close = difflib.get_close_matches(dotted, names, n=1, cutoff=0.6)
    hint = close[0] if close else tail.get(dotted.rsplit(".", 1)[-1])
    raise UsageError(
        f"--config.{dotted}: there is no such field"
        + (f"; the nearest is --config.{hint}" if hint else did_you_mean(dotted, names))
    )


def split_kwargs(config: Config, dotted: str) -> tuple[str | None, str]:
    """(the field of keyword arguments that `dotted` is or lies in, the argument's name).

    (None, "") where it is another field.
    """
    for name in field_names(config):
        if isinstance(get(config, name), dict) and f"{dotted}.".startswith(f"{name}."):
            return name, dotted[len(name) + 1 :]
    return None, ""


def allows_none(config: Config, dotted: str) -> bool:
    """Whether None is a value of a field."""
    return registry.has_type(None, _field_type(config, dotted))


def is_of_several_types(config: Config, dotted: str) -> bool:
    """Whether a field takes values of several types, None aside."""
    options = typing.get_args(_field_type(config, dotted))
    is_union = typing.get_origin(_field_type(config, dotted)) is types.UnionType
    return is_union and len([kind for kind in options if kind is not types.NoneType]) > 1


def _field_type(config: Config, dotted: str) -> Any:
    *sections, name = dotted.split(".")
    holder = get(config, ".".join(sections)) if sections else config
    return {item.name: item.type for item in dataclasses.fields(holder)}[name]


def get(config: Any, dotted: str) -> Any:
    """The value of a dotted field name."""
    for part in dotted.split("."):
        config = getattr(config, part)
    return config


def is_runtime(config: Config, dotted: str) -> bool:
    """Whether a resumed run may change this field, since it does not change what is trained."""
    *parents, name = dotted.split(".")
    holder = get(config, ".".join(parents)) if parents else config
    item = {item.name: item for item in dataclasses.fields(holder)}[name]
    return bool(item.metadata.get("runtime"))


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields that change what is trained: {dotted name: (old value, new value)}."""
    changed: dict[str, tuple[Any, Any]] = {}
    names = field_names(new)
    if type(old.task) is not type(new.task):
        changed["task.name"] = (old.task.TASK, new.task.TASK)
        names = [name for name in names if not name.startswith("task.")]
    for name in names:
        if not is_runtime(new, name) and get(old, name) != get(new, name):
            changed[name] = (get(old, name), get(new, name))
    return changed
