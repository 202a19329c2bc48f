"""Reads the pickles of CIFAR's Python archives, and nothing else that a pickle can hold.

A pickle may name any function of any module and call it. Here the few names that these files use
stand for our own objects, and every other name is refused.
"""

import io
import pickle
from typing import Any

import numpy as np

from jaxtag.data.archives import MAX_PICTURE_BYTES, ReadError, Store
from jaxtag.errors import UserError


def read_pickle(store: Store, name: str) -> dict[str, Any]:
    """The dictionary of a file: texts, whole numbers, lists of them, and uint8 arrays.

    Raises:
        UserError: it cannot be read, is damaged, or holds anything else (named).
    """
    where = store.where(name)
    try:
        content = _Reader(io.BytesIO(store.read(name, MAX_PICTURE_BYTES)), encoding="bytes").load()
    except (ReadError, _RefusedError) as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # damaged data raise many kinds from the pickle machine
        raise UserError(f"{where} is a damaged pickle ({error}): get it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} is no pickled dictionary")
    return {_plain(key): _plain(value) for key, value in content.items()}


class _RefusedError(Exception):
    """The pickle names something that CIFAR's files do not hold."""


class _Array:
    """Stands for `numpy.ndarray`; the array is `values` when its state was set."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Kind) or not isinstance(data, bytes):
            raise _RefusedError("an array of another kind than uint8: refused")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Kind:
    """Stands for `numpy.dtype`, of uint8 alone."""

    def __init__(self, code: str | bytes, *_: Any):
        if code not in ("u1", b"u1"):
            raise _RefusedError(f"an array of {_plain(code)!r} instead of bytes ('u1'): refused")

    def __setstate__(self, state: tuple) -> None:
        """Byte order and alignment mean nothing for single bytes."""


def _reconstruct(kind: type, *_: Any) -> _Array:
    if kind is not _Array:
        raise _RefusedError("an array of an unknown class: refused")
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, as which Python 3 writes bytes in protocol 2."""
    if encoding != "latin1":
        raise _RefusedError(f"text in {encoding!r}: refused")
    return text.encode("latin1")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _NAMES.get((module, name))
        if known is None:
            raise _RefusedError(
                f"the pickle names {module}.{name}, which CIFAR's files do not hold: refused, as "
                "it could run any program. Get the official file"
            )
        return known


def _plain(value: Any) -> Any:
    """Text as `str` (Python 2 wrote bytes), arrays as arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.values if isinstance(value, _Array) else value
