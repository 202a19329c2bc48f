"""oneDNN's C library (version 3), called through `ctypes`.

The library comes with the Python package `onednn-cpu-gomp` (`jaxtag[cpu]`).
https://uxlfoundation.github.io/oneDNN/
"""

import ctypes
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_int64, c_size_t, c_uint, c_void_p
from functools import cache
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from absl import logging

from jaxtag.kernels.onednn import ffi

_PACKAGE, _FILE = "onednn-cpu-gomp", "libdnnl.so.3"
KNOWN_MAJORS = (3,)

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
_PAGE = 4096  # bytes; scratch memory begins at multiples of it


class _Argument(ctypes.Structure):
    _fields_ = (("role", c_int), ("memory", c_void_p))


class _Version(ctypes.Structure):
    _fields_ = (
        ("major", c_int),
        ("minor", c_int),
        ("patch", c_int),
        ("hash", c_char_p),
        ("cpu_runtime", c_uint),
        ("gpu_runtime", c_uint),
    )


class OneDnnError(RuntimeError):
    """A call of the library failed."""


@runtime_checkable
class Spec(Protocol):
    """The specification of a primitive; hashable."""

    @property
    def dtype(self) -> str:
        """The dtype of its arrays."""


_SpecT = TypeVar("_SpecT", bound=Spec)
Describe = Callable[["OneDnn", _SpecT], c_void_p]


class OneDnn:
    """The loaded library, with the engine, stream and scratch memory that all primitives share.

    Primitives run in one thread (`ffi`), so that one stream and one scratch memory suffice.

    Raises:
        OneDnnError: it cannot compute on this CPU.
    """

    def __init__(self, dll: ctypes.CDLL) -> None:
        dll.dnnl_primitive_desc_query_md.restype = c_void_p
        dll.dnnl_memory_desc_get_size.restype = c_size_t
        self._dll = dll
        self._scratch = np.empty(0, np.uint8)
        self._has_fast: dict[tuple[object, object], bool] = {}
        self.engine, self.stream = c_void_p(), c_void_p()
        self.call("dnnl_engine_create", byref(self.engine), _CPU, c_size_t(0))
        self.call("dnnl_stream_create", byref(self.stream), self.engine, _IN_ORDER)

    def call(self, name: str, *arguments: object) -> None:
        """Calls a function of the library. Raises OneDnnError where it fails."""
        status = getattr(self._dll, name)(*arguments)
        if status:
            raise OneDnnError(f"oneDNN's {name} ended with status {status}")

    def has_fast(self, describe: Describe[_SpecT], spec: _SpecT) -> bool:
        """Whether the library has vector code for this CPU that computes `spec`.

        Args:
            describe: from `spec` to a description; raises OneDnnError for what is not supported.
        """
        if (describe, spec) not in self._has_fast:
            self._has_fast[describe, spec] = self._query_fast(describe, spec)
        return self._has_fast[describe, spec]

    def _query_fast(self, describe: Describe[_SpecT], spec: _SpecT) -> bool:
        if spec.dtype not in DTYPES:
            return False
        name = c_char_p()
        try:
            description = describe(self, spec)
            self.call("dnnl_primitive_desc_query", description, _IMPLEMENTATION, 0, byref(name))
        except OneDnnError:
            return False
        return not (name.value or b"").startswith(_PLAIN)

    def reorder(self, source: c_void_p, target: c_void_p) -> "Primitive":
        """From an array of one layout to one of another."""
        description = c_void_p()
        layouts = (source, self.engine, target, self.engine)
        self.call("dnnl_reorder_primitive_desc_create", byref(description), *layouts, None)
        return Primitive(self, description, {FROM: source, TO: target})

    def attributes(self) -> c_void_p:
        """Of a primitive whose caller provides its scratch memory."""
        attributes = c_void_p()
        self.call("dnnl_primitive_attr_create", byref(attributes))
        self.call("dnnl_primitive_attr_set_scratchpad_mode", attributes, _USER_SCRATCHPAD)
        return attributes

    def layout_of(self, description: c_void_p, query: int = _SCRATCHPAD_LAYOUT) -> c_void_p:
        """The layout that a description has chosen for an array, or for its scratch memory."""
        return c_void_p(self._dll.dnnl_primitive_desc_query_md(description, query, 0))

    def num_bytes(self, layout: c_void_p) -> int:
        """The size of an array of a layout."""
        return self._dll.dnnl_memory_desc_get_size(layout)

    def images_layout(self, shape: tuple[int, ...], dtype: str) -> c_void_p:
        """Of `[B, H, W, C]`; the library names their dimensions in the order B, C, H, W."""
        batch, height, width, channels = shape
        strides = (height * width * channels, 1, width * channels, channels)
        return self.layout((batch, channels, height, width), strides, dtype)

    def layout(
        self, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: str
    ) -> c_void_p:
        """The layout of an array; without strides: whatever the library finds fastest."""
        layout = c_void_p()
        if strides is None:
            name, last = "dnnl_memory_desc_create_with_tag", _ANY_LAYOUT
            self.call(name, byref(layout), len(shape), dims(*shape), DTYPES[dtype], last)
        else:
            name = "dnnl_memory_desc_create_with_strides"
            self.call(name, byref(layout), len(shape), dims(*shape), DTYPES[dtype], dims(*strides))
        return layout

    def scratch(self, *sizes: int) -> list[int]:
        """Addresses of scratch memory of these sizes in bytes, valid until the next call."""
        rounded = [-(-size // _PAGE) * _PAGE for size in sizes]
        if self._scratch.size < sum(rounded) + _PAGE:
            self._scratch = np.empty(sum(rounded) + _PAGE, np.uint8)
        first = -(-self._scratch.ctypes.data // _PAGE) * _PAGE
        return [first + sum(rounded[:i]) for i in range(len(rounded))]


class Primitive:
    """A computation on arrays of given layouts, ready to run."""

    def __init__(
        self, library: OneDnn, description: c_void_p, layouts: Mapping[int, c_void_p]
    ) -> None:
        """`layouts`: of each array, by the library's number for its role."""
        self._library = library
        self._primitive = c_void_p()
        library.call("dnnl_primitive_create", byref(self._primitive), description)
        self._memories: dict[int, c_void_p] = {}
        for role, layout in layouts.items():
            memory = self._memories[role] = c_void_p()
            library.call("dnnl_memory_create", byref(memory), layout, library.engine, None)
        self._arguments = (_Argument * len(layouts))(
            *(_Argument(role, memory) for role, memory in self._memories.items())
        )

    def __call__(self, addresses: Mapping[int, int]) -> None:
        """Runs it on the arrays at these addresses. Not in several threads at once."""
        library = self._library
        for role, memory in self._memories.items():
            library.call("dnnl_memory_set_data_handle", memory, c_void_p(addresses[role]))
        stream, count = library.stream, len(self._arguments)
        library.call("dnnl_primitive_execute", self._primitive, stream, count, self._arguments)
        library.call("dnnl_stream_wait", stream)


def dims(*sizes: int) -> ctypes.Array:
    """As the library takes sizes, strides and paddings."""
    return (c_int64 * 12)(*sizes)


@cache
def load() -> OneDnn | None:
    """oneDNN, or None where it is not installed or cannot be used.

    Where it is installed and cannot be used, a warning says why: it does not load, or its major
    version or XLA's foreign function interface is of a version that this module does not know.
    """
    try:
        files = importlib.metadata.files(_PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    try:
        path = next((file.locate() for file in files if file.name == _FILE), None)
        if path is None:
            raise OSError(f"the package {_PACKAGE} has no {_FILE}")
        _check_version("XLA's FFI API", ffi.api_version(), ffi.KNOWN_VERSIONS)
        with _sleeping_threads():
            dll = ctypes.CDLL(str(path))
        _check_version("oneDNN", _major(dll), KNOWN_MAJORS)
        return OneDnn(dll)
    except (OSError, OneDnnError) as error:  # no libgomp, a damaged package, another version
        logging.warning("oneDNN is off, XLA computes in its place, more slowly: %s", error)
        return None


def get() -> OneDnn:
    """The library. Raises OneDnnError where `load` gives None."""
    library = load()
    if library is None:
        raise OneDnnError("oneDNN is not available")
    return library


def _check_version(name: str, version: object, supported: tuple[object, ...]) -> None:
    """Raises OneDnnError for an unknown version."""
    if version not in supported:
        versions = ", ".join(map(str, supported))
        raise OneDnnError(f"{name} has version {version}; supported: {versions}")


def _major(dll: ctypes.CDLL) -> int:
    dll.dnnl_version.restype = ctypes.POINTER(_Version)
    return dll.dnnl_version().contents.major


@contextmanager
def _sleeping_threads() -> Iterator[None]:
    """Makes OpenMP, which reads this when it is loaded, let idle threads leave their cores."""
    name = "OMP_WAIT_POLICY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "passive"
    try:
        yield
    finally:
        del os.environ[name]
