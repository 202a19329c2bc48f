"""Notices when a compiled function is compiled anew, and what was different about its arguments."""

from typing import Any

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Recompilations:
    """Compilations of a function after the first, while it is entered as a context.

    Args:
      function: its name as Python knows it.
      compiled: the arguments that it has been compiled for.

    Attributes:
      found: for each the number of the call (0: the first in the context), the seconds of the
        compilation, and lines that say what had changed.
    """

    def __init__(self, function: str, *compiled: Any):
        self._function = f"jit({function})"
        self._before: Any = compiled
        self._calls = 0
        self._seconds: list[float] = []
        self.found: list[dict[str, Any]] = []

    def __enter__(self) -> "Recompilations":
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def called(self, *arguments: Any) -> None:
        """The function was called with these, whose memory it may have taken."""
        for seconds in self._seconds:
            changes = differences(_signature(self._before), _signature(arguments))
            self.found.append({"call": self._calls, "seconds": seconds, "changes": changes})
        self._seconds.clear()
        self._before, self._calls = arguments, self._calls + 1

    def _note(self, event: str, seconds: float, **details: Any) -> None:
        if event == _COMPILED and details.get("fun_name") == self._function:
            self._seconds.append(seconds)


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """A line for each argument that differs."""
    return [
        f"{name}: {old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _signature(arguments: Any) -> dict[str, str]:
    """What a compilation depends on, for each array."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(arguments)
    return {jax.tree_util.keystr(path): _describe(leaf) for path, leaf in leaves}


def _describe(leaf: Any) -> str:
    kind = jax.typeof(leaf)
    weak = ", weakly typed" if getattr(kind, "weak_type", False) else ""
    return f"{kind.str_short()}{weak}, {getattr(leaf, 'sharding', 'on the host')}"
