"""The JSON form of a configuration, as `config.json` in a work directory holds it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxtag.config import legacy
from jaxtag.config.checks import check
from jaxtag.config.schema import Config, TaskConfig, task_config_class
from jaxtag.errors import UserError, did_you_mean
from jaxtag.storage import json_files, store_errors
from jaxtag.storage.paths import make_path


def to_dict(config: Config) -> dict[str, Any]:
    """The whole configuration as JSON values; `task.name` says which task the section is of."""
    values = dataclasses.asdict(config)
    values["task"] = {"name": config.task.TASK, **values["task"]}
    return values


def to_json(config: Config) -> str:
    """JSON text of the whole configuration."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_dict(values: Any, where: str = "config.json") -> Config:
    """The configuration of what `to_dict` made, in this version or an older one.

    Raises:
        UserError: names `where` and the field at fault.
    """
    if isinstance(values, dict):
        values = legacy.modernize(values)
    config: Config = _from_dict(Config, values, where, "")
    return check(config)


def from_json(text: str, where: str = "config.json") -> Config:
    """The configuration that `to_json` wrote. UserError names `where` and the field at fault."""
    return from_dict(json_files.parse(text, where), where)


def load(workdir: str | Path) -> Config:
    """The configuration that a work directory was trained with."""
    path = make_path(workdir, "--workdir") / "config.json"
    with store_errors.named(workdir, "--workdir"):
        exists = path.is_file()
    if not exists:
        raise UserError(
            f"{workdir} is no work directory: it has no config.json "
            "(give the --workdir of a run of jaxtag.train)"
        )
    return from_dict(json_files.read(path), str(path))


def is_workdir(path: str | Path) -> bool:
    """Whether a path is a work directory: its config.json is neither transformers' nor timm's."""
    file = make_path(path) / "config.json"
    with store_errors.named(path, "--workdir"):
        exists = file.is_file()
    if not exists:
        return False
    values = json_files.read(file)
    return not isinstance(values, dict) or not {"model_type", "architecture"} & values.keys()


def _from_dict(kind: type, values: Any, where: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{where}: {prefix.rstrip('.') or 'the file'} must be an object")
    if kind is TaskConfig:
        values = dict(values)
        name = values.pop("name", "")
        if not isinstance(name, str):
            raise UserError(f"{where}: task.name must be a text")
        kind = task_config_class(name, f"{where}: task.name")
    types: dict[str, Any] = {item.name: item.type for item in dataclasses.fields(kind)}
    fields = {}
    for name, value in values.items():
        if name not in types:
            raise UserError(f"{where}: unknown field {prefix}{name}{did_you_mean(name, types)}")
        if dataclasses.is_dataclass(types[name]):
            value = _from_dict(types[name], value, where, f"{prefix}{name}.")
        fields[name] = _tuples(value)
    return kind(**fields)


def _tuples(value: Any) -> Any:
    """JSON lists as tuples, which is what the fields hold; also within dictionaries."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
