"""Convolutions, and the only place that chooses how they are computed.

CPUs get oneDNN's (`jaxtag/onednn`) where it is installed and the program runs on one device,
otherwise forms that suit XLA (`conv_on_cpu.py`). Accelerators get XLA's own, NVIDIA's GPUs but for
large kernels and first ones (`_on_nvidia`, benchmarks/gpu.md).

A first convolution (few channels, stride 2) sees 2x2 squares of pixels laid out as channels, on
TPU, NVIDIA's GPUs and, without oneDNN and but for the output of a large kernel, on CPU: the same
function of the same kernel, which fills their matrix units better.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import lax

from jaxtag.distributed import mesh as meshes
from jaxtag.kernels import conv_cpu
from jaxtag.kernels.conv_cpu import Padding, native, padded
from jaxtag.kernels.layers import cpu_barrier
from jaxtag.kernels.onednn import convolution
from jaxtag.kernels.onednn.convolution import Kind, Spec

_TENSOR_CORE = 8  # channels that a GPU's matrix units take at a time in 16 bits

he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Images `[B, H, W, C]` to `[B, H', W', features]`, kernel `[k, k, C / groups, features]`.

    Fields:
      kernel_size: k, or (height, width).
      padding: pixels on each side; "same" (TensorFlow's: an output of ceil(size / stride), what
        does not go evenly at the end); or explicit pairs. None: (k - 1) // 2 on each side.
      groups: parts of the channels that do not see each other; C for a depthwise convolution.
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
    def __call__(self, x: jax.Array) -> jax.Array:
        size = _pair(self.kernel_size)
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"groups ({self.groups}) must divide the channels coming in ({channels}) and "
                f"going out ({self.features})"
            )
        shape = (*size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape).astype(self.dtype)
        padding = resolve_padding(self.padding, size, self.stride, x.shape[1:3])
        y = convolve(x.astype(self.dtype), kernel, self.stride, padding, self.groups)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


def resolve_padding(
    padding: int | str | Padding | None,
    kernel_size: tuple[int, int],
    stride: int,
    image_size: tuple[int, int],
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
        return tuple(pairs)
    if isinstance(padding, str):
        raise ValueError(f'padding must be a number, pairs or "same", got {padding!r}')
    return padding


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int = 1
) -> jax.Array:
    """x `[B, H, W, C]`, kernel `[kh, kw, C / groups, O]` -> `[B, H', W', O]`, in x's dtype."""
    plain = partial(native, stride=stride, padding=padding, groups=groups)
    forms = {
        "cpu": _on_cpu(x, kernel, stride, padding, groups),
        "cuda": _on_nvidia(x, kernel, stride, padding, groups),
        "default": plain,
    }
    if _is_stem(x, kernel, stride, groups):
        forms["tpu"] = partial(_space_to_depth, padding=padding)
    return lax.platform_dependent(x, kernel, **forms)


def _convolve_forward(x, kernel, stride, padding, groups):
    return convolve(x, kernel, stride, padding, groups), (x, kernel)


def _convolve_backward(stride, padding, groups, saved, gradient):
    x, kernel = saved

    def of(form):
        return lambda x, kernel, gradient: jax.vjp(form, x, kernel)[1](gradient)

    forms = {
        "cpu": partial(_gradients_on_cpu, stride=stride, padding=padding, groups=groups),
        "cuda": of(_on_nvidia(x, kernel, stride, padding, groups)),
        "default": of(partial(native, stride=stride, padding=padding, groups=groups)),
    }
    if _is_stem(x, kernel, stride, groups):
        forms["tpu"] = of(partial(_space_to_depth, padding=padding))
    return lax.platform_dependent(x, kernel, cpu_barrier(gradient), **forms)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _on_cpu(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    plain = partial(native, stride=stride, padding=padding, groups=groups)
    output = jax.eval_shape(plain, x, kernel).shape
    found = _by_onednn("output", x, kernel, output, stride, padding, groups)
    if found:
        return found
    # XLA's own is the faster for the output of a large kernel (7x7: 8 against 24 ms).
    if _is_stem(x, kernel, stride, groups) and kernel.shape[0] <= 4:
        return partial(_space_to_depth, padding=padding)
    return partial(conv_cpu.output, stride=stride, padding=padding, groups=groups)


def _gradients_on_cpu(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    stride: int,
    padding: Padding,
    groups: int,
) -> tuple[jax.Array, jax.Array]:
    how = (x, kernel, gradient.shape, stride, padding, groups)
    to_x, to_kernel = _by_onednn("input_gradient", *how), _by_onednn("kernel_gradient", *how)
    if to_x and to_kernel:
        return to_x(gradient, kernel), to_kernel(x, gradient).astype(kernel.dtype)
    if _is_stem(x, kernel, stride, groups):
        return jax.vjp(partial(_space_to_depth, padding=padding), x, kernel)[1](gradient)
    return conv_cpu.gradients(x, kernel, gradient, stride=stride, padding=padding, groups=groups)


def _by_onednn(
    kind: Kind,
    x: jax.Array,
    kernel: jax.Array,
    output: tuple[int, ...],
    stride: int,
    padding: Padding,
    groups: int,
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    if conv_cpu.suits_products(kernel, padding, groups) or meshes.num_batch_shards() > 1:
        return None
    spec = Spec(kind, str(x.dtype), x.shape, kernel.shape, output, stride, padding, groups)
    return convolution.form(spec)


def _is_stem(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> bool:
    return groups == 1 and stride == 2 and x.shape[-1] <= 4 and kernel.shape[0] > 1


def _on_nvidia(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The form for NVIDIA's GPUs: XLA's own but for two kinds of kernels.

    Times: bfloat16, a batch of 1,024, H200 (benchmarks/gpu.md).

    Large ones with stride 2, and first ones, in squares: of CapsNet's 9x9 over 256 channels both
    directions take 3.3 ms, XLA's own 17.4, since for the gradient of the pictures it takes the
    output's gradient for the kernel and multiplies zeros. Large ones over one channel with a row of
    the kernel as channels: 0.43 ms instead of 1.21.
    """
    large = groups == 1 and stride == 2 and min(kernel.shape[:2]) >= 9
    if large or _is_stem(x, kernel, stride, groups):
        return partial(_space_to_depth, padding=padding, whole=_TENSOR_CORE)
    if groups == 1 and stride == 1 and x.shape[-1] == 1 and kernel.shape[1] >= 5:
        return partial(_in_columns, padding=padding)
    return partial(native, stride=stride, padding=padding, groups=groups)


def _space_to_depth(
    x: jax.Array, kernel: jax.Array, *, padding: Padding, whole: int = 1
) -> jax.Array:
    """A convolution with stride 2 as one with stride 1 over squares of 2x2 pixels.

    Their channels are filled up with zeros to a multiple of `whole`.
    """
    batch, channels, features = x.shape[0], kernel.shape[2], kernel.shape[3]
    half = [(k + 1) // 2 for k in kernel.shape[:2]]
    sizes, pads = [], []
    for axis, (before, after) in enumerate(padding, start=1):
        length, k = x.shape[axis], kernel.shape[axis - 1]
        outputs = (length + before + after - k) // 2 + 1
        sizes.append(outputs + half[axis - 1] - 1)
        pads.append((before, 2 * sizes[-1] - length - before, 0))
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), *pads, (0, 0, 0)))
    x = x.reshape(batch, sizes[0], 2, sizes[1], 2, channels).transpose(0, 1, 3, 2, 4, 5)
    fill = ((0, 0), (0, 0), (0, 0), (0, -4 * channels % whole))
    x = jnp.pad(x.reshape(batch, *sizes, 4 * channels), fill)
    even = [(0, 2 * n - k) for n, k in zip(half, kernel.shape, strict=False)]
    kernel = jnp.pad(kernel, (*even, (0, 0), (0, 0)))
    kernel = kernel.reshape(half[0], 2, half[1], 2, channels, features).transpose(0, 2, 1, 3, 4, 5)
    kernel = jnp.pad(kernel.reshape(*half, 4 * channels, features), (*fill[:2], fill[3], fill[0]))
    return convolve(x, kernel, 1, ((0, 0), (0, 0)))


def _in_columns(x: jax.Array, kernel: jax.Array, *, padding: Padding) -> jax.Array:
    """A convolution with stride 1 as one whose kernel has one column and its width in channels."""
    rows, columns, channels, features = kernel.shape
    x = padded(x, padding)
    wide = x.shape[2] - columns + 1
    fill = (0, -columns * channels % _TENSOR_CORE)
    x = jnp.concatenate([x[:, :, j : j + wide] for j in range(columns)], axis=-1)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), fill))
    kernel = kernel.reshape(rows, 1, columns * channels, features)
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), fill, (0, 0)))
    return native(x, kernel, stride=1, padding=((0, 0), (0, 0)), groups=1)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
