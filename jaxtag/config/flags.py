"""The flag --config: a configuration by name, with arguments and dotted overrides.

    --config=coco_caption                          a file of configs/
    --config=coco_caption:variant=B/16,image_size=384   arguments of its get_config
    --config=path/to/mine.py                       a file of one's own
    --config.optimizer.learning_rate=3e-4          any field, typed

Overrides and their typing are ml_collections' config flags; this file resolves names and makes
errors speak. ml_collections loads *this* file, whose `get_config` loads the one that was asked for.
"""

import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxtag.config import schema as configuration
from jaxtag.errors import UsageError, did_you_mean

flags.disclaim_key_flags()  # --config belongs to the command that calls `define`, and to its --help
_SAVED = "workdir="  # marks a reference to the configuration of a work directory


def define() -> flags.FlagHolder:
    """Defines --config; its value is a checked-on-demand `jaxtag.config.Config`."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Name of a file in configs/ or a path, with arguments after a colon "
        "(NAME:key=value,…). Override fields with --config.FIELD=VALUE.",
    )


def names() -> list[str]:
    """The names of all configurations that are installed."""
    return sorted(path.stem for path in _folder().glob("*.py") if path.stem != "__init__")


def load(reference: str) -> configuration.Config:
    """The configuration of NAME[:key=value,…] or PATH[:key=value,…]."""
    name, _, arguments = reference.partition(":")
    path = Path(name) if name.endswith(".py") else _folder() / f"{name}.py"
    if not path.is_file():
        raise UsageError(
            f"--config={name}: no such configuration{did_you_mean(name, names())}"
        )
    spec = importlib.util.spec_from_file_location(f"jaxtag_configuration_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UsageError(f"--config={name}: {path} defines no function get_config")
    try:
        made = get_config(**_arguments(get_config, arguments, name))
    except ValueError as error:  # such as an argument that names no model
        raise UsageError(f"--config={reference}: {error}") from error
    if not isinstance(made, configuration.Config):
        raise UsageError(f"--config={name}: get_config of {path} must return jaxtag.config.Config")
    return made


def get_config(reference: str) -> configuration.Config:
    """What ml_collections calls."""
    if reference.startswith(_SAVED):
        return configuration.load(reference.removeprefix(_SAVED))
    return load(reference)


def prepare_arguments(argv: Sequence[str]) -> list[str]:
    """Command line → command line for ml_collections, every --config.… checked by name.

    Without --config, the configuration of --workdir serves (evaluate, annotate).
    """
    argv = _joined(argv)
    references = [arg.partition("=")[2] for arg in argv if re.match(r"--?config=", arg)]
    workdirs = [arg.partition("=")[2] for arg in argv if re.match(r"--?workdir=", arg)]
    rest = [arg for arg in argv if not re.match(r"--?config=", arg)]
    overrides = [arg for arg in rest if re.match(r"--?config\.", arg)]
    if references:
        reference = references[-1]
    elif workdirs and "config" in flags.FLAGS and (Path(workdirs[-1]) / "config.json").is_file():
        reference = _SAVED + workdirs[-1]
    elif overrides:
        raise UsageError(
            f"{overrides[0]}: give --config=NAME too{did_you_mean('', names())}"
        )
    else:
        return rest
    made = get_config(reference)
    for override in overrides:
        configuration.check_name(made, re.sub(r"^--?config\.|=.*$", "", override, flags=re.S))
    return [rest[0], f"--config={__file__}:{reference}", *rest[1:]]


def _joined(argv: Sequence[str]) -> list[str]:
    """`--config NAME` → `--config=NAME`, likewise --workdir and --config.FIELD."""
    joined, position = [], 0
    while position < len(argv):
        arg = argv[position]
        if re.fullmatch(r"--?(config(\.[\w.]+)?|workdir)", arg) and position + 1 < len(argv):
            arg, position = f"{arg}={argv[position + 1]}", position + 1
        joined.append(arg)
        position += 1
    return joined


def _folder() -> Path:
    """configs/ of the checkout, or the copy inside the installed package."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"


def _arguments(get_config: Callable[..., Any], text: str, name: str) -> dict[str, Any]:
    """`key=value,…` → arguments of get_config, typed as its defaults are; texts without one."""
    known = inspect.signature(get_config).parameters
    made: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if key not in known:
            hint = did_you_mean(key, known) if known else " (it takes none)"
            raise UsageError(f"--config={name}: unknown argument {key!r}{hint}")
        required = known[key].default is inspect.Parameter.empty
        kind = str if required else type(known[key].default)
        if kind is bool:
            truth = {"": True, "true": True, "1": True, "false": False, "0": False}
            if value.lower() not in truth:
                raise UsageError(f"--config={name}: {key}={value!r} must be true or false")
            made[key] = truth[value.lower()]
            continue
        try:
            made[key] = kind(value) if equals else None
        except ValueError as error:
            raise UsageError(f"--config={name}: {key}={value!r} must be {kind.__name__}") from error
        if made[key] is None:
            raise UsageError(f"--config={name}: argument {key!r} needs a value ({key}=…)")
    for key, parameter in known.items():
        if key not in made and parameter.default is inspect.Parameter.empty:
            raise UsageError(f"--config={name}: say what {key} is (--config={name}:{key}=…)")
    return made
