"""Differences between two analyses of `jaxtag.compile`, of configurations or commits, say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError
from jaxtag.perf.profile.diff import changed_settings
from jaxtag.perf.profile.tables import aligned, milliseconds, size
from jaxtag.storage import json_files

_NUMBERS = (
    ("bound of a step", ("bound", "seconds"), milliseconds),
    ("  arithmetic", ("bound", "seconds_by_resource", "arithmetic"), milliseconds),
    ("  memory", ("bound", "seconds_by_resource", "memory"), milliseconds),
    ("  links", ("bound", "seconds_by_resource", "links"), milliseconds),
    ("  exposed links", ("bound", "seconds_by_resource", "exposed_links"), milliseconds),
    ("  as scheduled", ("schedule", "seconds"), milliseconds),
    ("  waits for links", ("schedule", "waited_seconds"), milliseconds),
    ("  network", ("bound", "seconds_by_resource", "network"), milliseconds),
    ("images/s at most", ("bound", "examples_per_second"), "{:,.0f}".format),
    ("FLOP an image", ("flops_per_example",), "{:,.0f}".format),
    ("traffic an image", ("hbm_bytes_per_example",), size),
    ("peak memory", ("memory_bytes_per_device", "peak"), size),
    ("  arguments", ("memory_bytes_per_device", "arguments"), size),
    ("  temporaries", ("memory_bytes_per_device", "temporaries"), size),
    ("compilation", ("compile_seconds",), "{:,.1f} s".format),
)


def load(path: str | Path) -> dict[str, Any]:
    """An analysis that `jaxtag.compile --output` wrote.

    Raises:
        UserError: the file cannot be read, or is something else.
    """
    analysis = json_files.read(path)
    if not isinstance(analysis, dict) or "memory_bytes_per_device" not in analysis:
        raise UserError(f"{path} is no analysis of jaxtag.compile (a file of its --output)")
    return analysis


def table(old: dict[str, Any], new: dict[str, Any]) -> str:
    """A table for a terminal: settings, numbers, collectives and instructions that differ."""
    sections = [_settings(old, new), _numbers(old, new)]
    for title, section in (("collectives", "collectives"), ("instructions", "program")):
        changes = changed_settings(old.get(section), new.get(section))
        rows = [(name, str(before), str(after), "") for name, before, after in changes]
        sections.append(aligned([(title, "old", "new", ""), *rows]) if rows else "")
    return "\n\n".join(filter(None, sections))


def _settings(old: dict[str, Any], new: dict[str, Any]) -> str:
    rows = [("differs", "old", "new", "")]
    for section in ("topology", "slices", "mesh", "batch_size", "config"):
        changes = changed_settings(old.get(section), new.get(section), section)
        rows += [(name, str(before), str(after), "") for name, before, after in changes]
    return aligned(rows) if len(rows) > 1 else "the same settings"


def _numbers(old: dict[str, Any], new: dict[str, Any]) -> str:
    rows = [("", "old", "new", "")]
    for title, path, format_value in _NUMBERS:
        before, after = _lookup(old, path), _lookup(new, path)
        ratio = f"x {after / before:.3f}" if before and after and before != after else ""
        rows.append((title, _cell(before, format_value), _cell(after, format_value), ratio))
    return aligned(rows)


def _cell(value: float | None, format_value: Callable[[float], str]) -> str:
    return "unknown" if value is None else format_value(value)


def _lookup(tree: Any, path: tuple[str, ...]) -> float | None:
    """The number at a path of keys; None where there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
