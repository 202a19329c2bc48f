"""The convolutions of oneDNN's C library (version 3), called through `ctypes`.

The library comes with the Python package `onednn-cpu-gomp` (`jaxtag[cpu]`). What it makes for a
convolution is kept as long as the process lives: a model has some tens of them.
https://uxlfoundation.github.io/oneDNN/dev_guide_convolution.html
"""

import ctypes
import importlib.metadata
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from absl import logging

Kind = Literal["output", "input_gradient", "kernel_gradient"]

_PACKAGE, _FILE = "onednn-cpu-gomp", "libdnnl.so.3"

# Of dnnl_types.h and dnnl_common_types.h.
_CPU = 1
DTYPES = {"bfloat16": 2, "float32": 3}
_ANY_LAYOUT = 1
_DIRECT = 1  # the algorithm: no Winograd's, whose sums are less exact
_TRAINING = 64
_IN_ORDER = 1
_USER_SCRATCHPAD = 1
_IMPLEMENTATION = 8  # queries
_QUERIES = {"output": 131, "input_gradient": 131, "kernel_gradient": 132}
_SCRATCHPAD_QUERY = 136
_FROM, _TO, _SCRATCHPAD = 1, 17, 80  # arguments of a primitive
_PAGE = 4096  # bytes; where the room for what a convolution needs begins
_ROLES: dict[Kind, tuple[int, int, int]] = {  # pictures, kernel, output
    "output": (1, 33, 17),
    "input_gradient": (129, 33, 145),
    "kernel_gradient": (1, 161, 145),
}


@dataclass(frozen=True)
class Spec:
    """A convolution, and which of its three products is meant.

    x: shape of the pictures `[B, H, W, C]`; kernel: `[kh, kw, C / groups, O]`; output:
    `[B, H', W', O]`, all with the last dimension innermost and of one dtype, but the kernel's
    gradient, which is float32.
    """

    kind: Kind
    dtype: str
    x: tuple[int, int, int, int]
    kernel: tuple[int, int, int, int]
    output: tuple[int, int, int, int]
    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int

    def __str__(self) -> str:
        """As it stands in a program: `output float32 8x7x7x64 3x3x64x32 8x7x7x32 1 1x1x1x1 1`."""
        sizes = (self.x, self.kernel, self.output, (self.stride,), sum(self.padding, ()))
        texts = ("x".join(map(str, some)) for some in (*sizes, (self.groups,)))
        return " ".join((self.kind, self.dtype, *texts))

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """The inverse of `str`."""
        kind, dtype, *texts = text.split()
        x, kernel, output, (stride,), padding, (groups,) = (
            tuple(map(int, some.split("x"))) for some in texts
        )
        return cls(kind, dtype, x, kernel, output, stride, (padding[:2], padding[2:]), groups)

    @property
    def flops(self) -> int:
        """Two for a multiply-add, those over the padding included."""
        return 2 * math.prod(self.output) * math.prod(self.kernel[:3])


class _Argument(ctypes.Structure):
    _fields_ = (("role", c_int), ("memory", c_void_p))


class OneDnnError(RuntimeError):
    """A call of the library failed."""


@cache
def implementation(spec: Spec) -> str | None:
    """The name of the code that would compute it; None where the library has none for this CPU."""
    name = c_char_p()
    try:
        _call("dnnl_primitive_desc_query", _description(spec), _IMPLEMENTATION, 0, byref(name))
    except OneDnnError:
        return None
    return (name.value or b"").decode()


class Convolution:
    """A convolution that is ready to run."""

    def __init__(self, spec: Spec):
        """Raises OneDnnError where the library has no such convolution for this CPU."""
        description = _description(spec)
        dtype = DTYPES[spec.dtype]
        to_kernel = spec.kind == "kernel_gradient"
        theirs = _part(description, _QUERIES[spec.kind])  # the order of a kernel that is fastest
        ours = _kernel_layout(spec, DTYPES["float32"] if to_kernel else dtype)
        scratchpad = _part(description, _SCRATCHPAD_QUERY)
        self._x = _memory(_pictures(spec.x, dtype))
        self._y = _memory(_pictures(spec.output, dtype))
        self._kernel, self._theirs, self._scratchpad = map(_memory, (ours, theirs, scratchpad))
        self._sizes = [library().dnnl_memory_desc_get_size(one) for one in (theirs, scratchpad)]
        memories = (self._x, self._theirs, self._y, self._scratchpad)
        product = _arguments((*_ROLES[spec.kind], _SCRATCHPAD), memories)
        product = (_primitive(description), product)
        if to_kernel:
            turn = _arguments((_FROM, _TO), (self._theirs, self._kernel))
            self._calls = [product, (_reorder(theirs, ours), turn)]
        else:
            turn = _arguments((_FROM, _TO), (self._kernel, self._theirs))
            self._calls = [(_reorder(ours, theirs), turn), product]

    def __call__(self, x: int, kernel: int, output: int) -> None:
        """Runs it on the arrays at these addresses; the kind says which of them is written.

        Not in several threads at once: all convolutions share the room for what they need besides.
        """
        memories = (self._x, self._kernel, self._y, self._theirs, self._scratchpad)
        addresses = (x, kernel, output, *_room(self._sizes))
        for memory, address in zip(memories, addresses, strict=True):
            _call("dnnl_memory_set_data_handle", memory, c_void_p(address))
        _, stream = _engine()
        for primitive, arguments in self._calls:
            _call("dnnl_primitive_execute", primitive, stream, len(arguments), arguments)
        _call("dnnl_stream_wait", stream)


_space = np.empty(0, np.uint8)


def _room(sizes: list[int]) -> list[int]:
    """Addresses of as many bytes each, until the next call."""
    global _space
    whole = [-(-size // _PAGE) * _PAGE for size in sizes]
    if _space.size < sum(whole) + _PAGE:
        _space = np.empty(sum(whole) + _PAGE, np.uint8)
    first = -(-_space.ctypes.data // _PAGE) * _PAGE
    return [first + sum(whole[:i]) for i in range(len(whole))]


def _part(description: c_void_p, query: int) -> c_void_p:
    return c_void_p(library().dnnl_primitive_desc_query_md(description, query, 0))


def _memory(layout: c_void_p) -> c_void_p:
    made = c_void_p()
    _call("dnnl_memory_create", byref(made), layout, _engine()[0], None)
    return made


def _arguments(roles: Sequence[int], memories: Sequence[c_void_p]) -> ctypes.Array:
    return (_Argument * len(roles))(*zip(roles, memories, strict=True))


def _description(spec: Spec) -> c_void_p:
    dtype = DTYPES[spec.dtype]
    x, y = _pictures(spec.x, dtype), _pictures(spec.output, dtype)
    strides, dilations = _dims(spec.stride, spec.stride), _dims(0, 0)
    before, after = (_dims(*side) for side in zip(*spec.padding, strict=True))
    engine, _ = _engine()
    attributes = c_void_p()
    _call("dnnl_primitive_attr_create", byref(attributes))
    _call("dnnl_primitive_attr_set_scratchpad_mode", attributes, _USER_SCRATCHPAD)
    kernel = _kernel_layout(spec, dtype, any_layout=True)
    geometry = (strides, dilations, before, after)
    forward = c_void_p()
    _call(
        "dnnl_convolution_forward_primitive_desc_create",
        byref(forward), engine, _TRAINING, _DIRECT, x, kernel, None, y, *geometry, attributes,
    )  # fmt: skip
    if spec.kind == "output":
        return forward
    found = c_void_p()
    if spec.kind == "input_gradient":
        _call(
            "dnnl_convolution_backward_data_primitive_desc_create",
            byref(found), engine, _DIRECT, x, kernel, y, *geometry, forward, attributes,
        )  # fmt: skip
        return found
    kernel = _kernel_layout(spec, DTYPES["float32"], any_layout=True)
    _call(
        "dnnl_convolution_backward_weights_primitive_desc_create",
        byref(found), engine, _DIRECT, x, kernel, None, y, *geometry, forward, attributes,
    )  # fmt: skip
    return found


def _pictures(shape: tuple[int, int, int, int], dtype: int) -> c_void_p:
    """Of `[B, H, W, C]`; the library names their dimensions in the order B, C, H, W."""
    batch, height, width, channels = shape
    strides = (height * width * channels, 1, width * channels, channels)
    return _layout((batch, channels, height, width), strides, dtype)


def _kernel_layout(spec: Spec, dtype: int, any_layout: bool = False) -> c_void_p:
    """Of `[kh, kw, C / groups, O]`; the library's order is (groups,) O, C, kh, kw."""
    rows, columns, channels, features = spec.kernel
    shape = (features // spec.groups, channels, rows, columns)
    strides = (1, features, columns * channels * features, channels * features)
    if spec.groups > 1:
        shape, strides = (spec.groups, *shape), (features // spec.groups, *strides)
    return _layout(shape, None if any_layout else strides, dtype)


def _layout(shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: int) -> c_void_p:
    made = c_void_p()
    if strides is None:
        last = ("dnnl_memory_desc_create_with_tag", _ANY_LAYOUT)
    else:
        last = ("dnnl_memory_desc_create_with_strides", _dims(*strides))
    _call(last[0], byref(made), len(shape), _dims(*shape), dtype, last[1])
    return made


def _dims(*sizes: int) -> ctypes.Array:
    return (c_int64 * 12)(*sizes)


def _primitive(description: c_void_p) -> c_void_p:
    made = c_void_p()
    _call("dnnl_primitive_create", byref(made), description)
    return made


def _reorder(source: c_void_p, target: c_void_p) -> c_void_p:
    found, (engine, _) = c_void_p(), _engine()
    _call("dnnl_reorder_primitive_desc_create", byref(found), source, engine, target, engine, None)
    return _primitive(found)


@cache
def _engine() -> tuple[c_void_p, c_void_p]:
    engine, stream = c_void_p(), c_void_p()
    _call("dnnl_engine_create", byref(engine), _CPU, c_size_t(0))
    _call("dnnl_stream_create", byref(stream), engine, _IN_ORDER)
    return engine, stream


def _call(name: str, *arguments: object) -> None:
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
