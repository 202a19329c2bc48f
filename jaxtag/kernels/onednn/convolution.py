"""The three products of a convolution as JAX functions that oneDNN computes, on CPU.

https://uxlfoundation.github.io/oneDNN/dev_guide_convolution.html
"""

import math
from ctypes import byref, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtag.kernels.onednn import ffi, library
from jaxtag.kernels.onednn.library import FROM, SCRATCHPAD, TO, OneDnn, Primitive

Kind = Literal["output", "input_gradient", "kernel_gradient"]

TARGET = "jaxtag_onednn_convolution"

# Of dnnl_types.h.
_DIRECT = 1  # the algorithm: no Winograd's, whose sums are less exact
_KERNEL_LAYOUT = {"output": 131, "input_gradient": 131, "kernel_gradient": 132}  # queries
_ROLES: dict[Kind, tuple[int, int, int]] = {  # images, kernel, output
    "output": (1, 33, 17),
    "input_gradient": (129, 33, 145),
    "kernel_gradient": (1, 161, 145),
}


@dataclass(frozen=True)
class Spec:
    """A convolution, and which of its three products is computed.

    Arrays are of one dtype, but the kernel's gradient, which is float32; their last dimension is
    innermost.

    Attributes:
        x: shape of the images `[B, H, W, C]`.
        kernel: `[kh, kw, C / groups, O]`.
        output: `[B, H', W', O]`.
    """

    kind: Kind
    dtype: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int

    def __str__(self) -> str:
        """As it stands in a program: `output float32 8x7x7x64 3x3x64x32 8x7x7x32 1 1x1x1x1 1`."""
        padding = sum(self.padding, ())
        sizes = (self.x, self.kernel, self.output, (self.stride,), padding, (self.groups,))
        return " ".join((self.kind, self.dtype, *("x".join(map(str, size)) for size in sizes)))

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """The inverse of `str`."""
        kind, dtype, *texts = text.split()
        x, kernel, output, (stride,), (top, bottom, left, right), (groups,) = (
            tuple(map(int, size.split("x"))) for size in texts
        )
        padding = ((top, bottom), (left, right))
        return cls(cast(Kind, kind), dtype, x, kernel, output, stride, padding, groups)

    @property
    def flops(self) -> int:
        """Two for a multiply-add, those over the padding included."""
        return 2 * math.prod(self.output) * math.prod(self.kernel[:3])


def supports(spec: Spec) -> bool:
    """Whether `compute` is available and has vector code for this CPU."""
    onednn = library.load()
    return onednn is not None and onednn.has_fast(_description, spec)


def compute(
    spec: Spec, first: Float[Array, "_ _ _ _"], second: Float[Array, "_ _ _ _"]
) -> Float[Array, "_ _ _ _"]:
    """The product of two arrays that `spec` names.

    It has no gradient of its own, and a program that XLA splits over several devices would compute
    it whole on each of them.

    Args:
        spec: which `supports` must accept.
        first: the images for `output` and `kernel_gradient`, the output's gradient for
            `input_gradient`.
        second: the kernel for `output` and `input_gradient`, the output's gradient for
            `kernel_gradient`.

    Returns:
        Of the arguments' dtype, but float32 for `kernel_gradient`.
    """
    _register()
    shapes = {"output": spec.output, "input_gradient": spec.x, "kernel_gradient": spec.kernel}
    dtype = jnp.float32 if spec.kind == "kernel_gradient" else spec.dtype
    result = jax.ShapeDtypeStruct(shapes[spec.kind], dtype)
    product = jax.ffi.ffi_call(TARGET, result, vmap_method="sequential")
    return product(first, second, spec=str(spec))


@cache
def _register() -> None:
    ffi.register(TARGET, _run)


def _run(text: bytes, arguments: list[int], results: list[int]) -> None:
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
    return spec.kind, _Convolution(library.get(), spec)


class _Convolution:
    """A convolution that is ready to run."""

    def __init__(self, onednn: OneDnn, spec: Spec) -> None:
        description = _description(onednn, spec)
        self._onednn = onednn
        self._to_kernel = spec.kind == "kernel_gradient"
        # The order of a kernel that is fastest, and that of the program.
        fastest = onednn.layout_of(description, _KERNEL_LAYOUT[spec.kind])
        plain = _kernel_layout(onednn, spec, "float32" if self._to_kernel else spec.dtype)
        scratchpad = onednn.layout_of(description)
        x, y = (onednn.images_layout(shape, spec.dtype) for shape in (spec.x, spec.output))
        self._roles = (*_ROLES[spec.kind], SCRATCHPAD)
        layouts = dict(zip(self._roles, (x, fastest, y, scratchpad), strict=True))
        self._product = Primitive(onednn, description, layouts)
        source, target = (fastest, plain) if self._to_kernel else (plain, fastest)
        self._reorder = onednn.reorder(source, target)
        self._sizes = onednn.num_bytes(fastest), onednn.num_bytes(scratchpad)

    def __call__(self, x: int, kernel: int, output: int) -> None:
        """Runs it on the arrays at these addresses; the kind says which of them is written."""
        reordered, scratchpad = self._onednn.scratch(*self._sizes)
        if not self._to_kernel:
            self._reorder({FROM: kernel, TO: reordered})
        addresses = (x, reordered, output, scratchpad)
        self._product(dict(zip(self._roles, addresses, strict=True)))
        if self._to_kernel:
            self._reorder({FROM: reordered, TO: kernel})


def _description(onednn: OneDnn, spec: Spec) -> c_void_p:
    x, y = (onednn.images_layout(shape, spec.dtype) for shape in (spec.x, spec.output))
    before, after = zip(*spec.padding, strict=True)
    sizes = ((spec.stride, spec.stride), (0, 0), before, after)  # the second: no dilation
    geometry = [library.dims(*pair) for pair in sizes]
    engine, attributes = onednn.engine, onednn.attributes()
    kernel = _kernel_layout(onednn, spec, spec.dtype, any_layout=True)
    forward = c_void_p()
    onednn.call(
        "dnnl_convolution_forward_primitive_desc_create", byref(forward),
        engine, library.TRAINING, _DIRECT, x, kernel, None, y, *geometry, attributes,
    )  # fmt: skip
    if spec.kind == "output":
        return forward
    backward = c_void_p()
    if spec.kind == "input_gradient":
        onednn.call(
            "dnnl_convolution_backward_data_primitive_desc_create", byref(backward),
            engine, _DIRECT, x, kernel, y, *geometry, forward, attributes,
        )  # fmt: skip
        return backward
    kernel = _kernel_layout(onednn, spec, "float32", any_layout=True)
    onednn.call(
        "dnnl_convolution_backward_weights_primitive_desc_create", byref(backward),
        engine, _DIRECT, x, kernel, None, y, *geometry, forward, attributes,
    )  # fmt: skip
    return backward


def _kernel_layout(onednn: OneDnn, spec: Spec, dtype: str, any_layout: bool = False) -> c_void_p:
    """Of `[kh, kw, C / groups, O]`; the library's order is (groups,) O, C, kh, kw."""
    rows, columns, channels, features = spec.kernel
    shape: tuple[int, ...] = (features // spec.groups, channels, rows, columns)
    strides: tuple[int, ...] = (1, features, columns * channels * features, channels * features)
    if spec.groups > 1:
        shape, strides = (spec.groups, *shape), (features // spec.groups, *strides)
    return onednn.layout(shape, None if any_layout else strides, dtype)
