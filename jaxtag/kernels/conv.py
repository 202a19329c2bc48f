"""Convolutions, and the only place that chooses how they are computed: `OUTPUT` and `GRADIENTS`.

CPUs get oneDNN's (`jaxtag/kernels/onednn`) where it is installed and the program runs on one
device, otherwise forms that suit XLA (`conv_cpu.py`). Accelerators get XLA's own, NVIDIA's GPUs
except for large kernels and first ones (benchmarks/gpu.md).

A first convolution (few channels, stride 2) sees 2x2 squares of pixels laid out as channels, on
TPU, NVIDIA's GPUs and, without oneDNN and except for the output of a large kernel, on CPU: the same
function of the same kernel, which fills their matrix units better.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import lax
from jaxtyping import Array, Float

from jaxtag.array_types import Images
from jaxtag.distributed import mesh
from jaxtag.kernels import conv_cpu
from jaxtag.kernels.conv_cpu import Padding, native, pad
from jaxtag.kernels.implementations import (
    Implementation,
    ImplementationTable,
    always,
    platform_dependent,
)
from jaxtag.kernels.layers import cpu_barrier
from jaxtag.kernels.onednn import convolution
from jaxtag.kernels.onednn.convolution import Kind

_TENSOR_CORE = 8  # channels that a GPU's matrix units take at a time in 16 bits

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Convolves images `[B, H, W, C]` to `[B, H', W', features]`.

    The kernel is `[k, k, C / groups, features]`.

    Attributes:
        kernel_size: k, or (height, width).
        padding: pixels on each side; "same" (TensorFlow's: an output of ceil(size / stride), an odd
            pixel at the end); or explicit pairs. None: (k - 1) // 2 on each side.
        groups: of channels that do not see each other; C for a depthwise convolution.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    stride: int = 1
    padding: int | str | Padding | None = None
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = he_fan_out
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "B h w {self.features}"]:
        size = _pair(self.kernel_size)
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"groups ({self.groups}) must divide the channels coming in ({channels}) and "
                f"going out ({self.features})"
            )
        shape = (*size, channels // self.groups, self.features)
        kernel = jnp.asarray(self.param("kernel", self.kernel_init, shape)).astype(self.dtype)
        padding = resolve_padding(self.padding, size, self.stride, x.shape[1:3])
        inputs = jnp.asarray(x).astype(self.dtype)
        y = convolve(inputs, kernel, self.stride, padding, self.groups)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


def resolve_padding(
    padding: int | str | Padding | None,
    kernel_size: tuple[int, int],
    stride: int,
    image_size: tuple[int, ...],
) -> Padding:
    """Explicit pairs for a padding as `Conv` takes it."""
    if padding is None:
        top, left = ((k - 1) // 2 for k in kernel_size)
        return ((top, top), (left, left))
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    if padding == "same":
        pairs = []
        for k, size in zip(kernel_size, image_size, strict=True):
            total = max((-(-size // stride) - 1) * stride + k - size, 0)
            pairs.append((total // 2, total - total // 2))
        return (pairs[0], pairs[1])
    if isinstance(padding, str):
        raise ValueError(f'padding must be a number, pairs or "same", got {padding!r}')
    return padding


class Geometry(TypedDict):
    """What a convolution is besides its operands."""

    stride: int
    padding: Padding
    groups: int


@dataclass(frozen=True)
class ConvSpec:
    """A convolution: its shapes, dtype and geometry, known when a program is traced.

    Attributes:
        dtype: of all operands.
        x: shape of the images `[B, H, W, C]`; B may be symbolic.
        kernel: `[kh, kw, C / groups, O]`.
        output: `[B, H', W', O]`.
    """

    dtype: str
    x: tuple[Any, ...]
    kernel: tuple[int, ...]
    output: tuple[Any, ...]
    stride: int
    padding: Padding
    groups: int

    @property
    def geometry(self) -> Geometry:
        """As keyword arguments of the functions in `conv_cpu`."""
        return {"stride": self.stride, "padding": self.padding, "groups": self.groups}


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw I O"],
    stride: int,
    padding: Padding,
    groups: int = 1,
) -> Float[Array, "B h w O"]:
    """Convolves images, in their dtype; kernel `[kh, kw, C / groups, O]`."""
    plain = partial(native, stride=stride, padding=padding, groups=groups)
    output = jax.eval_shape(plain, x, kernel).shape
    spec = ConvSpec(str(x.dtype), x.shape, kernel.shape, output, stride, padding, groups)
    return platform_dependent(x, kernel, **OUTPUT.functions(spec))


def _convolve_forward(
    x: Array, kernel: Array, stride: int, padding: Padding, groups: int
) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, stride, padding, groups), (x, kernel)


def _convolve_backward(
    stride: int,
    padding: Padding,
    groups: int,
    residuals: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    x, kernel = residuals
    spec = ConvSpec(str(x.dtype), x.shape, kernel.shape, gradient.shape, stride, padding, groups)
    return platform_dependent(x, kernel, cpu_barrier(gradient), **GRADIENTS.functions(spec))


convolve.defvjp(_convolve_forward, _convolve_backward)


def _is_stem(spec: ConvSpec) -> bool:
    """A first convolution: few channels, stride 2."""
    return spec.groups == 1 and spec.stride == 2 and spec.x[-1] <= 4 and spec.kernel[0] > 1


def _is_small_stem(spec: ConvSpec) -> bool:
    """On CPU XLA's own is faster for the output of a large kernel (7x7: 8 against 24 ms)."""
    return _is_stem(spec) and spec.kernel[0] <= 4


def _is_large_strided_or_stem(spec: ConvSpec) -> bool:
    """Of CapsNet's 9x9 with stride 2 over 256 channels both directions take 3.3 ms in squares.

    XLA's own take 17.4 ms, since for the gradient of the images it takes the output's gradient for
    the kernel and multiplies zeros (bfloat16, a batch of 1,024, H200; benchmarks/gpu.md).
    """
    large = spec.groups == 1 and spec.stride == 2 and min(spec.kernel[:2]) >= 9
    return large or _is_stem(spec)


def _is_wide_over_one_channel(spec: ConvSpec) -> bool:
    """With a row of a 9x9 kernel as channels: 0.43 ms instead of 1.21 (as above)."""
    wide = spec.x[-1] == 1 and spec.kernel[1] >= 5
    return spec.groups == 1 and spec.stride == 1 and wide


def _onednn_supports(kind: Kind, spec: ConvSpec) -> bool:
    if conv_cpu.suits_products(spec.kernel, spec.padding, spec.groups):
        return False
    if mesh.num_batch_shards() > 1:
        return False
    return convolution.supports(convolution.Spec(kind=kind, **vars(spec)))


def _onednn_supports_gradients(spec: ConvSpec) -> bool:
    return all(_onednn_supports(kind, spec) for kind in ("input_gradient", "kernel_gradient"))


def _onednn_output(spec: ConvSpec, x: Array, kernel: Array) -> Array:
    return convolution.compute(convolution.Spec(kind="output", **vars(spec)), x, kernel)


def _onednn_gradients(
    spec: ConvSpec, x: Array, kernel: Array, gradient: Array
) -> tuple[Array, Array]:
    x_spec = convolution.Spec(kind="input_gradient", **vars(spec))
    kernel_spec = convolution.Spec(kind="kernel_gradient", **vars(spec))
    x_gradient = convolution.compute(x_spec, gradient, kernel)
    kernel_gradient = convolution.compute(kernel_spec, x, gradient)
    return x_gradient, kernel_gradient.astype(kernel.dtype)


def _cpu_output(spec: ConvSpec, x: Array, kernel: Array) -> Array:
    return conv_cpu.output(x, kernel, **spec.geometry)


def _cpu_gradients(spec: ConvSpec, x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    return conv_cpu.gradients(x, kernel, gradient, **spec.geometry)


def _native_output(spec: ConvSpec, x: Array, kernel: Array) -> Array:
    return native(x, kernel, **spec.geometry)


def _space_to_depth(spec: ConvSpec, x: Array, kernel: Array, *, channel_multiple: int = 1) -> Array:
    """A convolution with stride 2 as one with stride 1 over squares of 2x2 pixels.

    Their channels are padded with zeros to a multiple of `channel_multiple`.
    """
    batch, channels, features = x.shape[0], kernel.shape[2], kernel.shape[3]
    half = [(k + 1) // 2 for k in kernel.shape[:2]]
    sizes, pads = [], []
    for axis, (before, after) in enumerate(spec.padding, start=1):
        length, k = x.shape[axis], kernel.shape[axis - 1]
        outputs = (length + before + after - k) // 2 + 1
        sizes.append(outputs + half[axis - 1] - 1)
        pads.append((before, 2 * sizes[-1] - length - before, 0))
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), *pads, (0, 0, 0)))
    x = x.reshape(batch, sizes[0], 2, sizes[1], 2, channels).transpose(0, 1, 3, 2, 4, 5)
    fill = ((0, 0), (0, 0), (0, 0), (0, -4 * channels % channel_multiple))
    x = jnp.pad(x.reshape(batch, *sizes, 4 * channels), fill)
    even = [(0, 2 * n - k) for n, k in zip(half, kernel.shape, strict=False)]
    kernel = jnp.pad(kernel, (*even, (0, 0), (0, 0)))
    kernel = kernel.reshape(half[0], 2, half[1], 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    kernel = jnp.pad(kernel.reshape(*half, 4 * channels, features), (*fill[:2], fill[3], fill[0]))
    return convolve(x, kernel, 1, ((0, 0), (0, 0)))


def _row_to_depth(spec: ConvSpec, x: Array, kernel: Array) -> Array:
    """A convolution with stride 1 as one whose kernel has one column and its width in channels."""
    rows, columns, channels, features = kernel.shape
    x = pad(x, spec.padding)
    wide = x.shape[2] - columns + 1
    fill = (0, -columns * channels % _TENSOR_CORE)
    x = jnp.concatenate([x[:, :, j : j + wide] for j in range(columns)], axis=-1)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), fill))
    kernel = kernel.reshape(rows, 1, columns * channels, features)
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), fill, (0, 0)))
    return native(x, kernel, stride=1, padding=((0, 0), (0, 0)), groups=1)


def _vjp(
    function: Callable[..., Array],
) -> Callable[[ConvSpec, Array, Array, Array], tuple[Array, Array]]:
    """The gradients that JAX derives from a function for the output."""

    def gradients(spec: ConvSpec, x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        x_gradient, kernel_gradient = jax.vjp(partial(function, spec), x, kernel)[1](gradient)
        return x_gradient, kernel_gradient

    return gradients


_space_to_depth_on_gpu = partial(_space_to_depth, channel_multiple=_TENSOR_CORE)

OUTPUT: ImplementationTable[ConvSpec] = ImplementationTable(
    {
        "cpu": (
            Implementation("onednn", partial(_onednn_supports, "output"), _onednn_output),
            Implementation("space_to_depth", _is_small_stem, _space_to_depth),
            Implementation("products", always, _cpu_output),
        ),
        "cuda": (
            Implementation("space_to_depth", _is_large_strided_or_stem, _space_to_depth_on_gpu),
            Implementation("row_to_depth", _is_wide_over_one_channel, _row_to_depth),
        ),
        "tpu": (Implementation("space_to_depth", _is_stem, _space_to_depth),),
        "default": (Implementation("native", always, _native_output),),
    }
)
GRADIENTS: ImplementationTable[ConvSpec] = ImplementationTable(
    {
        "cpu": (
            Implementation("onednn", _onednn_supports_gradients, _onednn_gradients),
            Implementation("space_to_depth", _is_stem, _vjp(_space_to_depth)),
            Implementation("products", always, _cpu_gradients),
        ),
        "cuda": (
            Implementation(
                "space_to_depth", _is_large_strided_or_stem, _vjp(_space_to_depth_on_gpu)
            ),
            Implementation("row_to_depth", _is_wide_over_one_channel, _vjp(_row_to_depth)),
        ),
        "tpu": (Implementation("space_to_depth", _is_stem, _vjp(_space_to_depth)),),
        "default": (Implementation("native", always, _vjp(_native_output)),),
    }
)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
