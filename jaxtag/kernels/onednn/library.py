"""oneDNN's C library (version 3), called through `ctypes`.

The library comes with the Python package `onednn-cpu-gomp` (`jaxtag[cpu]`).
https://uxlfoundation.github.io/oneDNN/
"""

import ctypes
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any

import numpy as np
from absl import logging

_PACKAGE, _FILE = "onednn-cpu-gomp", "libdnnl.so.3"

# Of dnnl_types.h and dnnl_common_types.h.
_CPU = 1
DTYPES = {"bfloat16": 2, "float32": 3}
_ANY_LAYOUT = 1
TRAINING, BACKWARD = 64, 128
_IN_ORDER = 1
_USER_SCRATCHPAD = 1
_IMPLEMENTATION, _SCRATCHPAD_LAYOUT = 8, 136  # queries
FROM, TO, SCRATCHPAD = 1, 17, 80  # arguments of a primitive
_PLAIN = (b"ref", b"gemm", b"nspc", b"ncsp")  # code that is plain loops, by how its name begins
_PAGE = 4096  # bytes; where the room for what a primitive needs begins


class _Argument(ctypes.Structure):
    _fields_ = (("role", c_int), ("memory", c_void_p))


class OneDnnError(RuntimeError):
    """A call of the library failed."""


class Primitive:
    """A computation on arrays of given layouts, ready to run."""

    def __init__(self, description: c_void_p, layouts: Mapping[int, c_void_p]):
        """`layouts`: of each array, by the library's number for its role."""
        self._made = c_void_p()
        call("dnnl_primitive_create", byref(self._made), description)
        self._memories = {}
        for role, one in layouts.items():
            self._memories[role] = c_void_p()
            call("dnnl_memory_create", byref(self._memories[role]), one, engine(), None)
        self._arguments = (_Argument * len(layouts))(*self._memories.items())

    def __call__(self, addresses: Mapping[int, int]) -> None:
        """Runs it on the arrays at these addresses. Not in several threads at once."""
        for role, memory in self._memories.items():
            call("dnnl_memory_set_data_handle", memory, c_void_p(addresses[role]))
        stream, count = _stream(), len(self._arguments)
        call("dnnl_primitive_execute", self._made, stream, count, self._arguments)
        call("dnnl_stream_wait", stream)


def reorder(source: c_void_p, target: c_void_p) -> Primitive:
    """From an array of one layout to one of another."""
    found = c_void_p()
    where = (source, engine(), target, engine())
    call("dnnl_reorder_primitive_desc_create", byref(found), *where, None)
    return Primitive(found, {FROM: source, TO: target})


def attributes() -> c_void_p:
    """Of a primitive to which its caller gives the room that it needs besides its arrays."""
    made = c_void_p()
    call("dnnl_primitive_attr_create", byref(made))
    call("dnnl_primitive_attr_set_scratchpad_mode", made, _USER_SCRATCHPAD)
    return made


@cache
def has_fast(describe: Callable[[Any], c_void_p], spec: Any) -> bool:
    """Whether the library is here, with vector code for this CPU that computes `spec`.

    Args:
      describe: from `spec` to a description; what the library does not know raises OneDnnError.
      spec: hashable, with a `dtype`.
    """
    if spec.dtype not in DTYPES or library() is None:
        return False
    name = c_char_p()
    try:
        call("dnnl_primitive_desc_query", describe(spec), _IMPLEMENTATION, 0, byref(name))
    except OneDnnError:
        return False
    return not (name.value or b"").startswith(_PLAIN)


def layout_of(description: c_void_p, query: int = _SCRATCHPAD_LAYOUT) -> c_void_p:
    """The layout that a description has chosen for an array, or for the room that it needs."""
    return c_void_p(library().dnnl_primitive_desc_query_md(description, query, 0))


def size(layout: c_void_p) -> int:
    """In bytes."""
    return library().dnnl_memory_desc_get_size(layout)


def pictures(shape: tuple[int, int, int, int], dtype: str) -> c_void_p:
    """Of `[B, H, W, C]`; the library names their dimensions in the order B, C, H, W."""
    batch, height, width, channels = shape
    strides = (height * width * channels, 1, width * channels, channels)
    return layout((batch, channels, height, width), strides, dtype)


def layout(shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: str) -> c_void_p:
    """Without strides: whatever the library finds fastest."""
    made = c_void_p()
    if strides is None:
        last = ("dnnl_memory_desc_create_with_tag", _ANY_LAYOUT)
    else:
        last = ("dnnl_memory_desc_create_with_strides", dims(*strides))
    call(last[0], byref(made), len(shape), dims(*shape), DTYPES[dtype], last[1])
    return made


def dims(*sizes: int) -> ctypes.Array:
    """As the library takes sizes, strides and paddings."""
    return (c_int64 * 12)(*sizes)


_space = np.empty(0, np.uint8)


def room(*sizes: int) -> list[int]:
    """Addresses of as many bytes each, until the next call."""
    global _space
    whole = [-(-size // _PAGE) * _PAGE for size in sizes]
    if _space.size < sum(whole) + _PAGE:
        _space = np.empty(sum(whole) + _PAGE, np.uint8)
    first = -(-_space.ctypes.data // _PAGE) * _PAGE
    return [first + sum(whole[:i]) for i in range(len(whole))]


@cache
def engine() -> c_void_p:
    """The CPU."""
    made = c_void_p()
    call("dnnl_engine_create", byref(made), _CPU, c_size_t(0))
    return made


@cache
def _stream() -> c_void_p:
    made = c_void_p()
    call("dnnl_stream_create", byref(made), engine(), _IN_ORDER)
    return made


def call(name: str, *arguments: object) -> None:
    """Raises OneDnnError if the function of the library fails."""
    status = getattr(library(), name)(*arguments)
    if status:
        raise OneDnnError(f"oneDNN's {name} ended with status {status}")


@cache
def library() -> ctypes.CDLL | None:
    """oneDNN, or None where it is not installed or does not load."""
    try:
        files = importlib.metadata.files(_PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    try:
        path = next((file.locate() for file in files if file.name == _FILE), None)
        if path is None:
            raise OSError(f"the package {_PACKAGE} has no {_FILE}")
        with _sleeping_threads():
            found = ctypes.CDLL(str(path))
    except OSError as error:  # there is no libgomp, or the package is damaged
        logging.warning(
            "convolutions are XLA's, slower than oneDNN's, which does not load: %s", error
        )
        return None
    found.dnnl_primitive_desc_query_md.restype = c_void_p
    found.dnnl_memory_desc_get_size.restype = c_size_t
    return found


@contextmanager
def _sleeping_threads() -> Iterator[None]:
    """OpenMP, which reads this when it is loaded, lets threads without work leave their cores."""
    name = "OMP_WAIT_POLICY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "passive"
    try:
        yield
    finally:
        del os.environ[name]
