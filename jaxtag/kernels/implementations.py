"""Tables of the implementations of a computation by platform, asked once when a program is traced.

A table lists, for each platform, candidates in order of preference; the first that applies to the
specification of the computation (shapes, dtypes, geometry) is taken. `platform_dependent` keeps
the one of the platform that the program is compiled for. Where a program leaves jaxtag, for
platforms that nobody knows yet, `default_forms` has it traced with the default of each.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import jax
from jax import lax

SpecT = TypeVar("SpecT")
_only_default = jax.make_user_context(False)


@contextlib.contextmanager
def default_forms() -> Iterator[None]:
    """In this context programs are traced with the default form of every computation.

    They then hold no `lax.platform_dependent` and no custom call, and take symbolic batch sizes.
    """
    with _only_default(True):
        yield


def platform_dependent(*operands: Any, **functions: Callable[..., Any]) -> Any:
    """`lax.platform_dependent` of functions by platform; in `default_forms` the default alone."""
    if _only_default.value:
        return functions["default"](*operands)
    return lax.platform_dependent(*operands, **functions)


def always(_: object) -> bool:
    """Applies to every specification."""
    return True


@dataclass(frozen=True)
class Implementation(Generic[SpecT]):
    """One way to compute something.

    Attributes:
        name: for people and tests.
        applies: whether it computes a specification, and is the faster way to.
        function: called with the specification and the operands.
    """

    name: str
    applies: Callable[[SpecT], bool]
    function: Callable[..., Any]


class ImplementationTable(Generic[SpecT]):
    """Candidates by platform ("cpu", "cuda", "tpu", …, and "default" for all others)."""

    def __init__(self, candidates: Mapping[str, Sequence[Implementation[SpecT]]]) -> None:
        self._candidates = {platform: tuple(rows) for platform, rows in candidates.items()}

    def select(self, spec: SpecT) -> dict[str, Implementation[SpecT]]:
        """The implementation of each platform; one without an applicable candidate is left out,
        so that it gets the default."""
        selected = {}
        for platform, candidates in self._candidates.items():
            if _only_default.value and platform != "default":
                continue
            for candidate in candidates:
                if candidate.applies(spec):
                    selected[platform] = candidate
                    break
        return selected

    def functions(self, spec: SpecT) -> dict[str, Callable[..., Any]]:
        """Functions of the operands by platform, as `platform_dependent` takes them."""
        return {
            platform: partial(implementation.function, spec)
            for platform, implementation in self.select(spec).items()
        }
