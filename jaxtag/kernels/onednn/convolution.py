"""The three products of a convolution as JAX functions that oneDNN computes, on CPU.

https://uxlfoundation.github.io/oneDNN/dev_guide_convolution.html
"""

import math
from collections.abc import Callable
from ctypes import byref, c_void_p
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp

from jaxtag.kernels.onednn import ffi, library
from jaxtag.kernels.onednn.library import FROM, SCRATCHPAD, TO, Primitive

Kind = Literal["output", "input_gradient", "kernel_gradient"]

TARGET = "jaxtag_onednn_convolution"

# Of dnnl_types.h.
_DIRECT = 1  # the algorithm: no Winograd's, whose sums are less exact
_KERNEL_LAYOUT = {"output": 131, "input_gradient": 131, "kernel_gradient": 132}  # queries
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


def form(spec: Spec) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """The product as a function of two arrays, or None where oneDNN would not be fast or is absent.

    It has no gradient of its own, and a program that XLA splits over several devices would compute
    it whole on each of them.

    Its arguments: pictures and kernel for `output`, the output's gradient and the kernel for
    `input_gradient`, pictures and the output's gradient for `kernel_gradient`. It returns their
    dtype, but float32 for `kernel_gradient`.
    """
    return partial(_call, spec) if library.has_fast(_description, spec) else None


def _call(spec: Spec, first: jax.Array, second: jax.Array) -> jax.Array:
    _register()
    shapes = {"output": spec.output, "input_gradient": spec.x, "kernel_gradient": spec.kernel}
    dtype = jnp.float32 if spec.kind == "kernel_gradient" else spec.dtype
    result = jax.ShapeDtypeStruct(shapes[spec.kind], dtype)
    product = jax.ffi.ffi_call(TARGET, result, vmap_method="sequential")
    return product(first, second, spec=str(spec))


@cache
def _register() -> None:
    ffi.register(TARGET, _work)


def _work(text: bytes, arguments: list[int], results: list[int]) -> None:
    kind, convolution = _convolution(text)
    (first, second), (result,) = arguments, results
    if kind == "output":
        convolution(first, second, result)
    elif kind == "input_gradient":
        convolution(result, second, first)
    else:
        convolution(first, result, second)


@cache
def _convolution(text: bytes) -> tuple[Kind, "_Convolution"]:
    spec = Spec.parse(text.decode())
    return spec.kind, _Convolution(spec)


class _Convolution:
    """A convolution that is ready to run."""

    def __init__(self, spec: Spec):
        description = _description(spec)
        self._to_kernel = spec.kind == "kernel_gradient"
        # The order of a kernel that is fastest, and ours.
        theirs = library.layout_of(description, _KERNEL_LAYOUT[spec.kind])
        ours = _kernel_layout(spec, "float32" if self._to_kernel else spec.dtype)
        scratchpad = library.layout_of(description)
        x, y = (library.pictures(shape, spec.dtype) for shape in (spec.x, spec.output))
        self._roles = (*_ROLES[spec.kind], SCRATCHPAD)
        layouts = dict(zip(self._roles, (x, theirs, y, scratchpad), strict=True))
        self._product = Primitive(description, layouts)
        self._turn = library.reorder(*((theirs, ours) if self._to_kernel else (ours, theirs)))
        self._sizes = library.size(theirs), library.size(scratchpad)

    def __call__(self, x: int, kernel: int, output: int) -> None:
        """Runs it on the arrays at these addresses; the kind says which of them is written."""
        theirs, scratchpad = library.room(*self._sizes)
        if not self._to_kernel:
            self._turn({FROM: kernel, TO: theirs})
        self._product(dict(zip(self._roles, (x, theirs, output, scratchpad), strict=True)))
        if self._to_kernel:
            self._turn({FROM: theirs, TO: kernel})


def _description(spec: Spec) -> c_void_p:
    x, y = (library.pictures(shape, spec.dtype) for shape in (spec.x, spec.output))
    before, after = zip(*spec.padding, strict=True)
    sizes = ((spec.stride, spec.stride), (0, 0), before, after)  # the second: no dilation
    geometry = [library.dims(*pair) for pair in sizes]
    engine, attributes = library.engine(), library.attributes()
    kernel = _kernel_layout(spec, spec.dtype, any_layout=True)
    forward = c_void_p()
    library.call(
        "dnnl_convolution_forward_primitive_desc_create", byref(forward),
        engine, library.TRAINING, _DIRECT, x, kernel, None, y, *geometry, attributes,
    )  # fmt: skip
    if spec.kind == "output":
        return forward
    found = c_void_p()
    if spec.kind == "input_gradient":
        library.call(
            "dnnl_convolution_backward_data_primitive_desc_create", byref(found),
            engine, _DIRECT, x, kernel, y, *geometry, forward, attributes,
        )  # fmt: skip
        return found
    kernel = _kernel_layout(spec, "float32", any_layout=True)
    library.call(
        "dnnl_convolution_backward_weights_primitive_desc_create", byref(found),
        engine, _DIRECT, x, kernel, None, y, *geometry, forward, attributes,
    )  # fmt: skip
    return found


def _kernel_layout(spec: Spec, dtype: str, any_layout: bool = False) -> c_void_p:
    """Of `[kh, kw, C / groups, O]`; the library's order is (groups,) O, C, kh, kw."""
    rows, columns, channels, features = spec.kernel
    shape = (features // spec.groups, channels, rows, columns)
    strides = (1, features, columns * channels * features, channels * features)
    if spec.groups > 1:
        shape, strides = (spec.groups, *shape), (features // spec.groups, *strides)
    return library.layout(shape, None if any_layout else strides, dtype)
