"""The flag --config: a configuration by name, with arguments and dotted overrides.

    --config=coco_caption                          a file of configs/
    --config=coco_caption:variant=B/16,image_size=384   arguments of its get_config
    --config=path/to/mine.py                       a file of one's own
    --config.optimizer.learning_rate=3e-4          any field, typed
    --config.model.kwargs.depth=3                  a keyword argument

Overrides and their typing are ml_collections' config flags; this file resolves names and adds
did-you-mean hints to errors. ml_collections loads *this* file, whose `get_config` loads the
configuration that was asked for.
"""

import ast
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxtag.config import dotted, legacy, serialization
from jaxtag.config.schema import Config
from jaxtag.errors import UsageError, did_you_mean

flags.disclaim_key_flags()  # --config belongs to the command that calls `define`, and to its --help
_NOT_OWN = object()
_ARGUMENTS: list[str] = []  # what `prepare_arguments` returned: ml_collections looks there
_SAVED = "workdir="  # marks a reference to the configuration of a work directory


def define() -> flags.FlagHolder:
    """Defines --config; its value is a checked-on-demand `jaxtag.config.Config`."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Name of a file in configs/ or a path, with arguments after a colon "
        "(NAME:key=value,…). Override fields with --config.FIELD=VALUE.",
        sys_argv=_ARGUMENTS,
    )


def names() -> list[str]:
    """The names of all configurations that are installed."""
    return sorted(path.stem for path in _folder().glob("*.py") if path.stem != "__init__")


def load(reference: str) -> Config:
    """The configuration of NAME[:key=value,…] or PATH[:key=value,…]."""
    name, _, arguments = reference.partition(":")
    path = Path(name) if name.endswith(".py") else _folder() / f"{name}.py"
    if not path.is_file():
        raise UsageError(f"--config={name}: no such configuration{did_you_mean(name, names())}")
    spec = importlib.util.spec_from_file_location(f"jaxtag_configuration_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a file that exists, named *.py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UsageError(f"--config={name}: {path} defines no function get_config")
    try:
        config = get_config(**_arguments(get_config, arguments, name))
    except ValueError as error:  # such as an argument that names no model
        raise UsageError(f"--config={reference}: {error}") from error
    if not isinstance(config, Config):
        raise UsageError(f"--config={name}: get_config of {path} must return jaxtag.Config")
    return config


def get_config(text: str) -> Config:
    """What ml_collections calls, with the JSON that `prepare_arguments` made."""
    request = json.loads(text)
    config = _load_reference(request["reference"])
    for name, value in request["values"]:
        _set(config, name, _tuples(value))
    return config


def prepare_arguments(argv: Sequence[str]) -> list[str]:
    """Command line -> command line for ml_collections, every --config.… checked by name.

    Without --config, the configuration of --workdir serves (evaluate, annotate). Names of jaxtag
    0.1 are translated. What ml_collections cannot set is set by `get_config`: keyword arguments
    (`--config.model.kwargs.depth=3`), None, and fields of several types.
    """
    _ARGUMENTS[:] = _prepared(_joined(argv))
    return list(_ARGUMENTS)


def _prepared(argv: list[str]) -> list[str]:
    references = [arg.partition("=")[2] for arg in argv if re.match(r"--?config=", arg)]
    workdirs = [arg.partition("=")[2] for arg in argv if re.match(r"--?(workdir|model)=", arg)]
    rest = [arg for arg in argv if not re.match(r"--?config=", arg)]
    overrides = [arg for arg in rest if re.match(r"--?config\.", arg)]
    if references:
        reference = references[-1]
    elif workdirs and "config" in flags.FLAGS and serialization.is_workdir(workdirs[-1]):
        reference = _SAVED + workdirs[-1]
    elif overrides:
        raise UsageError(f"{overrides[0]}: give --config=NAME too{did_you_mean('', names())}")
    else:
        return rest
    config, values, remaining = _load_reference(reference), [], []
    for arg in rest:
        if arg not in overrides:
            remaining.append(arg)
            continue
        name, equals, text = re.sub(r"^--?config\.", "", arg, flags=re.S).partition("=")
        name = ".".join(part.strip() for part in name.split("."))
        name = _modern_name(config, name)
        dotted.check_name(config, name)
        if (value := _own_value(config, name, text)) is not _NOT_OWN:
            values.append((name, value))
        else:
            remaining.append(f"--config.{name}{equals}{text}")
    request = json.dumps({"reference": reference, "values": values})
    return [remaining[0], f"--config={__file__}:{request}", *remaining[1:]]


def _load_reference(reference: str) -> Config:
    if reference.startswith(_SAVED):
        return serialization.load(reference.removeprefix(_SAVED))
    return load(reference)


def _modern_name(config: Config, name: str) -> str:
    """Today's name of a field of jaxtag 0.1; another name as it is."""
    for old, new in legacy.RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def _own_value(config: Config, name: str, text: str) -> Any:
    """The value of an override that ml_collections cannot set, else `_NOT_OWN`."""
    field, _ = dotted.split_kwargs(config, name)
    if field is not None:
        value = legacy.kwargs_of(_literal(text))
        if field == name and not isinstance(value, dict):
            raise UsageError(f"--config.{name}={text}: must be a dictionary, as {{'depth': 3}}")
        return value
    if text == "None" and dotted.allows_none(config, name):
        return None
    return _literal(text) if dotted.is_of_several_types(config, name) else _NOT_OWN


def _set(config: Config, name: str, value: Any) -> None:
    field, key = dotted.split_kwargs(config, name)
    *sections, last = (field or name).split(".")
    holder = dotted.get(config, ".".join(sections)) if sections else config
    if key:
        value = {**getattr(holder, last), key: value}
    setattr(holder, last, value)


def _literal(text: str) -> Any:
    """A Python literal, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _tuples(value: Any) -> Any:
    """Lists, which JSON made of tuples, as tuples."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _joined(argv: Sequence[str]) -> list[str]:
    """`--config NAME` -> `--config=NAME`, likewise --workdir and --config.FIELD."""
    joined, position = [], 0
    while position < len(argv):
        arg = argv[position]
        if re.fullmatch(r"--?(config(\.[\w.]+)?|workdir|model)", arg) and position + 1 < len(argv):
            arg, position = f"{arg}={argv[position + 1]}", position + 1
        joined.append(arg)
        position += 1
    return joined


def _folder() -> Path:
    """jaxtag/configs, which in a checkout is a link to its configs/."""
    return Path(__file__).parents[1] / "configs"


def _arguments(get_config: Callable[..., Any], text: str, name: str) -> dict[str, Any]:
    """`key=value,…` -> arguments of get_config, typed as its defaults are; texts without one."""
    parameters = inspect.signature(get_config).parameters
    values: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if key not in parameters:
            hint = did_you_mean(key, parameters) if parameters else " (it takes none)"
            raise UsageError(f"--config={name}: unknown argument {key!r}{hint}")
        required = parameters[key].default is inspect.Parameter.empty
        kind = str if required else type(parameters[key].default)
        if kind is bool:
            truth = {"": True, "true": True, "1": True, "false": False, "0": False}
            if value.lower() not in truth:
                raise UsageError(f"--config={name}: {key}={value!r} must be true or false")
            values[key] = truth[value.lower()]
            continue
        try:
            values[key] = kind(value) if equals else None
        except ValueError as error:
            raise UsageError(f"--config={name}: {key}={value!r} must be {kind.__name__}") from error
        if values[key] is None:
            raise UsageError(f"--config={name}: argument {key!r} needs a value ({key}=…)")
    for key, parameter in parameters.items():
        if key not in values and parameter.default is inspect.Parameter.empty:
            raise UsageError(f"--config={name}: say what {key} is (--config={name}:{key}=…)")
    return values
