"""Convolutions, and the only place that chooses how they are computed.

Accelerators get XLA's own convolution, NVIDIA's GPUs but for large kernels and first ones
(`_on_nvidia`, benchmarks/gpu.md). On CPU its gradients are slow, so that there each kind has forms
of its own (measured in benchmarks/README.md):

- 1x1: a matrix product;
- few channels and taps: a matrix product over gathered patches;
- depthwise: a sum over the taps of the kernel, which XLA fuses into one pass over the picture;
- dense: XLA's own for the output and (stride 1, as a convolution with the turned kernel) for the
  gradient of the input; matrix products over gathered rows for the gradient of the kernel, and in
  place of XLA's where the kernel is large or the arithmetic bfloat16.

A first convolution (few channels, stride 2) sees 2x2 squares of pixels laid out as channels, on
TPU, NVIDIA's GPUs and, but for the output of a large kernel, on CPU: the same function of the same
kernel, which fills their matrix units better.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype, Initializer
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from jaxtag.models.layers import settle
from jaxtag.parallel import mesh as meshes

Padding = tuple[tuple[int, int], tuple[int, int]]  # pixels (above, below), (left, right)

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
    native = partial(_native, stride=stride, padding=padding, groups=groups)
    cuda = _on_nvidia(x, kernel, stride, padding, groups)
    if _is_stem(x, kernel, stride, groups):
        squares = partial(_in_squares, padding=padding)
        # XLA's own is the faster on CPU for the output of a large kernel (7x7: 8 against 24 ms).
        cpu = squares if kernel.shape[0] <= 4 else native
        return lax.platform_dependent(x, kernel, cpu=cpu, tpu=squares, cuda=cuda, default=native)
    if _is_pointwise(kernel, padding, groups):
        cpu = partial(_pointwise, stride=stride)
    elif _is_depthwise(x, kernel, groups):
        cpu = partial(_depthwise, stride=stride, padding=padding)
    elif groups == 1 and _is_thin(kernel):
        cpu = partial(_in_patches, stride=stride, padding=padding)
    elif groups == 1 and _gathering_pays(x, kernel):
        cpu = partial(_in_rows, stride=stride, padding=padding)
    else:
        cpu = native
    return lax.platform_dependent(x, kernel, cpu=cpu, cuda=cuda, default=native)


def _convolve_forward(x, kernel, stride, padding, groups):
    return convolve(x, kernel, stride, padding, groups), (x, kernel)


def _convolve_backward(stride, padding, groups, saved, gradient):
    x, kernel = saved
    gradient = settle(gradient)

    def of(form):
        return lambda x, kernel, gradient: jax.vjp(form, x, kernel)[1](gradient)

    native = of(partial(_native, stride=stride, padding=padding, groups=groups))
    cuda = of(_on_nvidia(x, kernel, stride, padding, groups))
    if _is_stem(x, kernel, stride, groups):
        squares = of(partial(_in_squares, padding=padding))
        forms = {"cpu": squares, "tpu": squares, "cuda": cuda, "default": native}
        return lax.platform_dependent(*saved, gradient, **forms)
    if _is_pointwise(kernel, padding, groups):
        cpu = partial(_pointwise_gradients, stride=stride)
    elif _is_depthwise(x, kernel, groups):
        cpu = partial(_depthwise_gradients, stride=stride, padding=padding)
    else:
        cpu = partial(_dense_gradients, stride=stride, padding=padding, groups=groups)
    return lax.platform_dependent(*saved, gradient, cpu=cpu, cuda=cuda, default=native)


convolve.defvjp(_convolve_forward, _convolve_backward)


def _is_pointwise(kernel: jax.Array, padding: Padding, groups: int) -> bool:
    return kernel.shape[:2] == (1, 1) and groups == 1 and not np.any(padding)


def _is_depthwise(x: jax.Array, kernel: jax.Array, groups: int) -> bool:
    return groups > 1 and groups == x.shape[-1] and kernel.shape[-1] == groups


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
        return partial(_in_squares, padding=padding, whole=_TENSOR_CORE)
    if groups == 1 and stride == 1 and x.shape[-1] == 1 and kernel.shape[1] >= 5:
        return partial(_in_columns, padding=padding)
    return partial(_native, stride=stride, padding=padding, groups=groups)


def _is_thin(kernel: jax.Array) -> bool:
    """Few values to a patch: XLA's convolution takes 14 times a product's time for 12 of them."""
    return kernel[..., 0].size <= 32


def _gathering_pays(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether products over gathered rows beat XLA's convolution.

    They do where a picture is no larger than the kernel: 3x3 over 2x2 pixels of 512 channels takes
    a hundredth of XLA's time.

    The 9x9 convolution of CapsNet takes 0.4 of XLA's time. In bfloat16 each does: XLA makes the
    operands of a convolution float32 first, not those of a product; with few channels the
    gathering takes longer.
    """
    if min(x.shape[1:3]) <= max(kernel.shape[:2]) and min(kernel.shape[2:]) >= 16:
        return True
    if kernel.dtype == jnp.bfloat16:
        return min(kernel.shape[2:]) >= 32
    return kernel.shape[0] * kernel.shape[1] > 25 and min(kernel.shape[2:]) >= 16


def _native(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding, groups: int
) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _in_squares(x: jax.Array, kernel: jax.Array, *, padding: Padding, whole: int = 1) -> jax.Array:
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
    x = _padded(x, padding)
    wide = x.shape[2] - columns + 1
    fill = (0, -columns * channels % _TENSOR_CORE)
    x = jnp.concatenate([x[:, :, j : j + wide] for j in range(columns)], axis=-1)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), fill))
    kernel = kernel.reshape(rows, 1, columns * channels, features)
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), fill, (0, 0)))
    return _native(x, kernel, stride=1, padding=((0, 0), (0, 0)), groups=1)


def _pointwise(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    return _product(x[:, ::stride, ::stride], kernel[0, 0])


def _pointwise_gradients(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, *, stride: int
) -> tuple[jax.Array, jax.Array]:
    # The gradient that JAX makes of `_pointwise` contracts three dimensions; XLA transposes the
    # pictures for that.
    seen, back = jax.vjp(lambda x: x[:, ::stride, ::stride], x)
    to_kernel = _product_over_pixels(seen, gradient).reshape(kernel.shape)
    return back(_product(gradient, kernel[0, 0].T))[0], to_kernel.astype(kernel.dtype)


def _product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`[..., C]` and `[C, O]` to `[..., O]` in x's dtype, summed in float32.

    Said so, a bfloat16 product takes a third of a float32 one's time on a CPU that has
    instructions for it; otherwise XLA makes both operands float32 first.
    """
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32).astype(x.dtype)


def _product_over_pixels(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """`[B, H, W, C]` and `[B, H, W, O]` to `[C, O]` float32."""
    x, gradient = (a.reshape(-1, a.shape[-1]) for a in (x, gradient))
    product = partial(jnp.einsum, "nc,no->co", preferred_element_type=jnp.float32)
    if x.dtype == jnp.bfloat16 and meshes.shards_of_step() == 1:
        # Fast only where the first operand lies row by row. XLA splits no array between devices
        # whose layout is said: each would get the pictures of all.
        turned = with_layout_constraint(gradient.T, Layout((0, 1)))
        product = jnp.matmul(turned, x, preferred_element_type=jnp.float32)
        return lax.optimization_barrier(product).T
    # Twice as fast with the smaller side first.
    return product(x, gradient) if x.shape[1] <= gradient.shape[1] else product(gradient, x).T


def _depthwise(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    seen = taps(x, kernel.shape[:2], stride, padding)
    return sum(tap * kernel[i, j, 0] for (i, j), tap in seen.items())


def _depthwise_gradients(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, *, stride: int, padding: Padding
) -> tuple[jax.Array, jax.Array]:
    seen = taps(x, kernel.shape[:2], stride, padding)
    sums = [
        jnp.einsum("bhwc,bhwc->c", tap, gradient, preferred_element_type=jnp.float32)
        for tap in seen.values()
    ]
    to_kernel = jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)
    if stride == 1:
        turned = kernel[::-1, ::-1]
        back = _turned_padding(x, kernel, gradient, padding)
        return _depthwise(gradient, turned, stride=1, padding=back), to_kernel
    form = partial(_depthwise, kernel=kernel, stride=stride, padding=padding)
    return jax.vjp(form, x)[1](gradient)[0], to_kernel


def _dense_gradients(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    stride: int,
    padding: Padding,
    groups: int = 1,
) -> tuple[jax.Array, jax.Array]:
    if groups > 1:
        parts = zip(
            jnp.split(x, groups, axis=-1),
            jnp.split(kernel, groups, axis=-1),
            jnp.split(gradient, groups, axis=-1),
            strict=True,
        )
        found = [_dense_gradients(*part, stride=stride, padding=padding) for part in parts]
        to_x, to_kernel = zip(*found, strict=True)
        return jnp.concatenate(to_x, axis=-1), jnp.concatenate(to_kernel, axis=-1)
    to_kernel = _kernel_gradient(x, kernel, gradient, stride, padding)
    if stride == 1:
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        back = _turned_padding(x, kernel, gradient, padding)
        form = _in_rows if _gathering_pays(gradient, turned) else partial(_native, groups=1)
        return form(gradient, turned, stride=1, padding=back), to_kernel
    # With a stride: one product gives what each output owes to each tap, and the gradient of the
    # gathering puts it in place.
    matrix = kernel.reshape(-1, kernel.shape[-1]).T
    owed = jnp.matmul(gradient, matrix, preferred_element_type=jnp.float32)

    def gather(x: jax.Array) -> jax.Array:
        seen = taps(x, kernel.shape[:2], stride, padding)
        return jnp.concatenate(list(seen.values()), axis=-1)

    to_x = jax.vjp(gather, x.astype(jnp.float32))[1](owed)[0]
    return to_x.astype(x.dtype), to_kernel


def _in_rows(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    rows, columns, channels, features = kernel.shape
    matrices = kernel.reshape(rows, columns * channels, features)
    gathered = _gathered(x, (rows, columns), stride, padding)
    product = partial(jnp.matmul, preferred_element_type=jnp.float32)
    return sum(map(product, gathered, matrices)).astype(x.dtype)


def _in_patches(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    seen = taps(x, kernel.shape[:2], stride, padding)
    patches = jnp.concatenate(list(seen.values()), axis=-1)
    return _product(patches, kernel.reshape(-1, kernel.shape[-1]))


def _gathered(
    x: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> list[jax.Array]:
    """For each row of a kernel what its taps see, side by side: `[B, H', W', columns * C]`."""
    if x.dtype == jnp.bfloat16:
        # XLA makes what is put side by side float32 on CPU, and bfloat16 again after it.
        bits = lax.bitcast_convert_type(x, jnp.uint16)
        gathered = _gathered(bits, size, stride, padding)
        return [lax.bitcast_convert_type(one, x.dtype) for one in gathered]
    rows, columns = size
    x = _padded(x, padding)
    batch, height, width, channels = x.shape
    high, wide = (height - rows) // stride + 1, (width - columns) // stride + 1
    if wide >= columns:
        seen = taps(x, size, stride, ((0, 0), (0, 0)))
        return [jnp.concatenate([seen[i, j] for j in range(columns)], -1) for i in range(rows)]
    # Fewer and longer pieces: what an output sees of a row lies side by side in memory already.
    lines = x.reshape(batch, height, width * channels)
    starts = [stride * channels * j for j in range(wide)]
    return [
        jnp.stack([seen[..., start : start + columns * channels] for start in starts], axis=2)
        for seen in (lines[:, i : i + stride * high : stride] for i in range(rows))
    ]


def _kernel_gradient(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, stride: int, padding: Padding
) -> jax.Array:
    gathered = _gathered(x, kernel.shape[:2], stride, padding)
    sums = [_product_over_pixels(seen, gradient) for seen in gathered]
    return jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


def taps(
    x: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> dict[tuple[int, int], jax.Array]:
    """What each tap (i, j) of a kernel sees: `{(i, j): [B, H', W', C]}`."""
    x = _padded(x, padding)
    high, wide = (
        (x.shape[axis] - k) // stride * stride + 1 for axis, k in zip((1, 2), size, strict=True)
    )
    return {
        (i, j): x[:, i : i + high : stride, j : j + wide : stride]
        for i in range(size[0])
        for j in range(size[1])
    }


def _padded(x: jax.Array, padding: Padding) -> jax.Array:
    pads = [(first, last, 0) for first, last in padding]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


def _turned_padding(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, padding: Padding
) -> Padding:
    """With it the turned kernel brings a gradient (stride 1) back to the size of `x`.

    Negative where more was padded than the kernel reaches: those pixels belong to the padding.
    """
    before = (k - 1 - first for k, (first, _) in zip(kernel.shape, padding, strict=False))
    pairs = []
    for axis, first in enumerate(before, start=1):
        k = kernel.shape[axis - 1]
        pairs.append((first, x.shape[axis] - (gradient.shape[axis] + first - k + 1)))
    return tuple(pairs)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
