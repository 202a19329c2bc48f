"""Differences between two profiles: of two configurations, commits or versions of JAX.

Kernels have other names in another program, so they are compared by the part of the step, the phase
and the opcode. A difference that is smaller than twice the standard error of the mean step times is
marked as noise.
"""

import math
import statistics
from collections import defaultdict
from typing import Any

from jaxtag.errors import UserError
from jaxtag.perf.profile.report import Profile
from jaxtag.perf.profile.tables import aligned, milliseconds, size

_ROWS = 15
_KERNEL_KEY = ("part", "phase", "opcode")


def table(old: Profile, new: Profile) -> str:
    """A table for a terminal, with the parts and kernels that differ most.

    Raises:
        UserError: One of them is damaged, or of a version of jaxtag that measured other things.
    """
    try:
        noise = _noise(old, new)
        sections = [
            _settings(old, new),
            _numbers(old, new, noise),
            *(
                _times(title, _seconds_by(old, *key), _seconds_by(new, *key), noise)
                for title, key in (("part of the step", ("part",)), ("kernels", _KERNEL_KEY))
            ),
            f"noise: below {noise:.1%}, twice the standard error of the mean times of "
            f"{len(old['step']['each'])} and {len(new['step']['each'])} steps",
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            "the profiles cannot be compared: one is damaged, or of another version of jaxtag "
            f"({type(error).__name__}: {str(error)[:200]})"
        ) from error
    return "\n\n".join(filter(None, sections))


def changed_settings(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old, new) of the values that differ in two trees of JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        rows = []
        for key in sorted(old.keys() | new.keys()):
            rows += changed_settings(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return rows
    return [] if old == new else [(name, old, new)]


def _settings(old: Profile, new: Profile) -> str:
    rows = [("differs", "old", "new", "")]
    for section in ("title", "config", "device", "versions", "dtype"):
        changes = changed_settings(old[section], new[section], section)
        rows += [(name, str(before), str(after), "") for name, before, after in changes]
    return aligned(rows) if len(rows) > 1 else "the same settings"


def _noise(old: Profile, new: Profile) -> float:
    """Relative difference of two step times that their spread explains."""
    square = 0.0
    for profile in (old, new):
        seconds = profile["step"]["each"]
        error = statistics.stdev(seconds) / math.sqrt(len(seconds)) if len(seconds) > 1 else 0.0
        square += (error / statistics.fmean(seconds)) ** 2
    return 2 * math.sqrt(square)


def _numbers(old: Profile, new: Profile, noise: float) -> str:
    rows = [("", "old", "new", "")]
    for title, path, format_value in (
        ("a step", ("step", "seconds"), milliseconds),
        ("  data", ("step", "data"), milliseconds),
        ("  host", ("step", "host"), milliseconds),
        ("  device", ("step", "device"), milliseconds),
        ("  checkpoint", ("step", "checkpoint"), milliseconds),
        ("images/s", ("step", "images_per_second"), "{:,.1f}".format),
        ("FLOP analytic", ("costs", "flops", "analytic"), "{:,.0f}".format),
        ("FLOP by XLA", ("costs", "flops", "xla"), "{:,.0f}".format),
        ("MFU", ("costs", "mfu"), "{:.1%}".format),
        ("traffic", ("costs", "bytes"), size),
        ("temporaries", ("memory", "planned", "temporaries"), size),
        ("peak memory", ("memory", "planned", "peak"), size),
        ("compilation", ("compilation", "compile_seconds"), "{:,.1f} s".format),
        ("kernels", ("kernels",), "{:,}".format),
    ):
        before, after = _lookup(old, path), _lookup(new, path)
        ratio = _ratio(before, after)
        if ratio and path[0] == "step" and abs(after / before - 1) < noise:
            ratio += " (noise)"
        rows.append((title, format_value(before), format_value(after), ratio))
    return aligned(rows)


def _times(title: str, old: dict[str, float], new: dict[str, float], noise: float) -> str:
    names = sorted(
        old.keys() | new.keys(),
        key=lambda name: (-abs(new.get(name, 0.0) - old.get(name, 0.0)), name),
    )
    rows = [(title, "old", "new", "difference", "")]
    for name in names[:_ROWS]:
        before, after = old.get(name, 0.0), new.get(name, 0.0)
        change = f"{1e3 * (after - before):+,.2f} ms"
        is_noise = 0 < abs(after - before) < noise * max(before, after)
        mark = "noise" if is_noise else ""
        rows.append((name, milliseconds(before), milliseconds(after), change, mark))
    return aligned(rows)


def _seconds_by(profile: Profile, *fields: str) -> dict[str, float]:
    """Seconds of the kernels, summed over those that agree in `fields`."""
    sums: dict[str, float] = defaultdict(float)
    for kernel in profile["kernels"]:
        name = " ".join(filter(None, (kernel[field] or "" for field in fields)))
        sums[name or "(unknown)"] += kernel["seconds"]
    return sums


def _lookup(tree: Any, path: tuple[str, ...]) -> float:
    """The number at a path of keys; of a list, its length."""
    for key in path:
        tree = tree[key]
    return len(tree) if isinstance(tree, list) else tree


def _ratio(before: float, after: float) -> str:
    return f"x {after / before:.3f}" if before and before != after else ""
