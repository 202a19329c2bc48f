"""Detects recompilations of a jitted function, and what changed about its arguments."""

from typing import Any

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Recompilations:
    """Context that records each compilation of a function after the first.

    Args:
        function: Its name as Python knows it.
        *arguments: Those that it has been compiled for.

    Attributes:
        records: For each recompilation the number of the call (0: the first in the context), the
            seconds it took, and lines that say what changed.
    """

    def __init__(self, function: str, *arguments: Any):
        self._function = f"jit({function})"
        self._previous: Any = arguments
        self._calls = 0
        self._seconds: list[float] = []
        self.records: list[dict[str, Any]] = []

    def __enter__(self) -> "Recompilations":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def record_call(self, *arguments: Any) -> None:
        """Notes that the function was called with these, even if their buffers were donated."""
        for seconds in self._seconds:
            changes = differences(_signature(self._previous), _signature(arguments))
            self.records.append({"call": self._calls, "seconds": seconds, "changes": changes})
        self._seconds.clear()
        self._previous, self._calls = arguments, self._calls + 1

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED and kwargs.get("fun_name") == self._function:
            self._seconds.append(duration_secs)


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """One line for each argument that differs."""
    return [
        f"{name}: {old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _signature(arguments: Any) -> dict[str, str]:
    """Path of each array -> what a compilation depends on."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(arguments)
    return {jax.tree_util.keystr(path): _describe(leaf) for path, leaf in leaves}


def _describe(leaf: Any) -> str:
    kind = jax.typeof(leaf)
    weak = ", weakly typed" if getattr(kind, "weak_type", False) else ""
    return f"{kind.str_short()}{weak}, {getattr(leaf, 'sharding', 'on the host')}"
