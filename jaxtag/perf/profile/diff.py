"""What is different between two profiles: two configurations, commits or versions of JAX.

Kernels have other names in another program; what they are compared by is what they are for: the
part of the step, the phase and the kind of instruction.
"""

from collections import defaultdict
from typing import Any

from jaxtag.perf.profile.report import Profile
from jaxtag.perf.profile.tables import aligned, milliseconds, size

_ROWS = 15


def table(old: Profile, new: Profile) -> str:
    """A table for a terminal; of the parts and kernels those that differ most."""
    parts = [
        _settings(old, new),
        _numbers(old, new),
        _times("part of the step", _by(old, "part"), _by(new, "part")),
        _times("kernels", _by(old, *_KIND), _by(new, *_KIND)),
    ]
    return "\n\n".join(filter(None, parts))


_KIND = ("part", "phase", "opcode")


def settings(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old, new) of the values that differ in two trees of JSON."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += settings(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if old == new else [(name, old, new)]


def _settings(old: Profile, new: Profile) -> str:
    rows = [("differs", "old", "new", "")]
    for where in ("title", "config", "device", "versions", "dtype"):
        found = settings(old[where], new[where], where)
        rows += [(name, str(before), str(after), "") for name, before, after in found]
    return aligned(rows) if len(rows) > 1 else "the same settings"


def _numbers(old: Profile, new: Profile) -> str:
    rows = [("", "old", "new", "")]
    for title, path, form in (
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
        before, after = _at(old, path), _at(new, path)
        rows.append((title, form(before), form(after), _ratio(before, after)))
    return aligned(rows)


def _times(title: str, old: dict[str, float], new: dict[str, float]) -> str:
    names = sorted(
        old.keys() | new.keys(),
        key=lambda name: (-abs(new.get(name, 0.0) - old.get(name, 0.0)), name),
    )
    rows = [(title, "old", "new", "difference", "")]
    for name in names[:_ROWS]:
        before, after = old.get(name, 0.0), new.get(name, 0.0)
        change = f"{1e3 * (after - before):+,.2f} ms"
        rows.append((name, milliseconds(before), milliseconds(after), change, ""))
    return aligned(rows)


def _by(profile: Profile, *fields: str) -> dict[str, float]:
    """Seconds of the kernels, added up over those that agree in `fields`."""
    sums: dict[str, float] = defaultdict(float)
    for kernel in profile["kernels"]:
        name = " ".join(filter(None, (kernel[field] or "" for field in fields)))
        sums[name or "(unknown)"] += kernel["seconds"]
    return sums


def _at(tree: Any, path: tuple[str, ...]) -> float:
    for key in path:
        tree = tree[key]
    return len(tree) if isinstance(tree, list) else tree


def _ratio(before: float, after: float) -> str:
    return f"x {after / before:.3f}" if before and before != after else ""
