"""Reads the pickles of CIFAR's Python archives, and nothing else that a pickle can hold.

A pickle may name any function of any module and call it. Here the few names that these files use
stand for objects of our own, and every other name is refused.
"""

import io
import pickle
from typing import Any

import numpy as np

from jaxtag.datasets.archives import MAX_IMAGE_BYTES, ReadError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError


def read_pickle(source: SourceFiles, name: str) -> dict[str, Any]:
    """Reads the dictionary of a file: texts, integers, lists of them, and uint8 arrays.

    Raises:
        UserError: It cannot be read, is damaged, or holds anything else (named).
    """
    where = source.where(name)
    try:
        content = _Reader(io.BytesIO(source.read(name, MAX_IMAGE_BYTES)), encoding="bytes").load()
        if not isinstance(content, dict):
            raise _RefusedError("no pickled dictionary")
        return {_text(key): _plain(value) for key, value in content.items()}
    except (ReadError, _RefusedError) as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # damaged data raise many kinds from the pickle machine
        raise UserError(f"{where} is a damaged pickle ({error}): get it again") from error


class _RefusedError(Exception):
    """The pickle names something that CIFAR's files do not hold."""


class _StandIn:
    """A class, not a function: a pickle can set attributes of whatever has no `__setstate__`."""

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("a state where these files have none: refused")


class _Array(_StandIn):
    """Stands for `numpy.ndarray`; the array is `values` when its state was set."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise _RefusedError("an array of another kind than uint8: refused")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype(_StandIn):
    """Stands for `numpy.dtype`, of uint8 alone."""

    def __init__(self, code: str | bytes, *_: Any):
        if code not in ("u1", b"u1"):
            raise _RefusedError(f"an array of {_text(code)!r} instead of bytes ('u1'): refused")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order and alignment mean nothing for single bytes."""


class _Reconstruct(_StandIn):
    """Stands for numpy's `_reconstruct`, which makes an array whose state comes later."""

    def __new__(cls, array_class: type, *_: Any) -> _Array:  # type: ignore[misc]  # as pickle calls it
        if array_class is not _Array:
            raise _RefusedError("an array of an unknown class: refused")
        return _Array()


class _Encode(_StandIn):
    """Stands for `_codecs.encode`, as which Python 3 writes bytes in protocol 2."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]  # as pickle calls it
        if encoding != "latin1":
            raise _RefusedError(f"text in {encoding!r}: refused")
        return text.encode("latin1")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _NAMES.get((module, name))
        if stand_in is None:
            raise _RefusedError(
                f"the pickle names {module[:80]}.{name[:80]}, which CIFAR's files do not hold: "
                "refused, as it could run any program. Get the official file"
            )
        return stand_in


def _plain(value: Any) -> Any:
    """A value of the dictionary: arrays as arrays; a list is as deep as it gets."""
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value.values if isinstance(value, _Array) else _text(value)


def _text(value: Any) -> Any:
    """Text as `str`, for which Python 2 wrote bytes; anything else as it is."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
