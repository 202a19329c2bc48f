"""Forms of a convolution that XLA's CPU backend computes faster than its own.

They serve where oneDNN is not installed, and programs that run on several CPU devices; 1x1 and
large ones (`suits_products`) always (figures in benchmarks/README.md):

- 1x1: a matrix product;
- few channels and taps: a matrix product over gathered patches;
- depthwise: a sum over the taps of the kernel, which XLA fuses into one pass over the picture;
- dense: XLA's own for the output and (stride 1, as a convolution with the turned kernel) for the
  gradient of the input; matrix products over gathered rows for the gradient of the kernel, and in
  place of XLA's where the kernel is large or the arithmetic bfloat16.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from jaxtag.distributed import mesh as meshes

Padding = tuple[tuple[int, int], tuple[int, int]]  # pixels (above, below), (left, right)


def output(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding, groups: int
) -> jax.Array:
    """As `conv.convolve`."""
    if _is_pointwise(kernel, padding, groups):
        return _pointwise(x, kernel, stride=stride)
    if _is_depthwise(x, kernel, groups):
        return _depthwise(x, kernel, stride=stride, padding=padding)
    if groups == 1 and _is_thin(kernel):
        return _im2col(x, kernel, stride=stride, padding=padding)
    if groups == 1 and _gathering_pays(x, kernel):
        return _im2col_rows(x, kernel, stride=stride, padding=padding)
    return native(x, kernel, stride=stride, padding=padding, groups=groups)


def gradients(
    x: jax.Array,
    kernel: jax.Array,
    gradient: jax.Array,
    *,
    stride: int,
    padding: Padding,
    groups: int,
) -> tuple[jax.Array, jax.Array]:
    """Those of the pictures and of the kernel, for that of the output."""
    if _is_pointwise(kernel, padding, groups):
        return _pointwise_gradients(x, kernel, gradient, stride=stride)
    if _is_depthwise(x, kernel, groups):
        return _depthwise_gradients(x, kernel, gradient, stride=stride, padding=padding)
    return _dense_gradients(x, kernel, gradient, stride=stride, padding=padding, groups=groups)


def _is_pointwise(kernel: jax.Array, padding: Padding, groups: int) -> bool:
    return kernel.shape[:2] == (1, 1) and groups == 1 and not np.any(padding)


def _is_depthwise(x: jax.Array, kernel: jax.Array, groups: int) -> bool:
    return groups > 1 and groups == x.shape[-1] and kernel.shape[-1] == groups


def _is_thin(kernel: jax.Array) -> bool:
    """Few values to a patch: XLA's convolution takes 14 times a product's time for 12 of them."""
    return kernel[..., 0].size <= 32


def suits_products(kernel: jax.Array, padding: Padding, groups: int) -> bool:
    """Whether a step with matrix products of XLA's is faster than one with oneDNN's convolution.

    1x1: MobileNetV2's step by a sixth, ResNet-50's by a twelfth. 9x9 over 256 channels: CapsNet's
    by a twelfth, in float32 and in bfloat16.
    """
    return _is_pointwise(kernel, padding, groups) or (groups == 1 and _is_large(kernel))


def _is_large(kernel: jax.Array) -> bool:
    return kernel.shape[0] * kernel.shape[1] > 25 and min(kernel.shape[2:]) >= 16


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
    return _is_large(kernel)


def native(
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
    if x.dtype == jnp.bfloat16 and meshes.num_batch_shards() == 1:
        # Fast only where the first operand lies row by row. XLA splits no array between devices
        # whose layout is said: each would get the pictures of all.
        turned = with_layout_constraint(gradient.T, Layout((0, 1)))
        product = jnp.matmul(turned, x, preferred_element_type=jnp.float32)
        return lax.optimization_barrier(product).T
    # Twice as fast with the smaller side first.
    return product(x, gradient) if x.shape[1] <= gradient.shape[1] else product(gradient, x).T


def _depthwise(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    seen = kernel_views(x, kernel.shape[:2], stride, padding)
    return sum(tap * kernel[i, j, 0] for (i, j), tap in seen.items())


def _depthwise_gradients(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, *, stride: int, padding: Padding
) -> tuple[jax.Array, jax.Array]:
    seen = kernel_views(x, kernel.shape[:2], stride, padding)
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
        form = _im2col_rows if _gathering_pays(gradient, turned) else partial(native, groups=1)
        return form(gradient, turned, stride=1, padding=back), to_kernel
    # With a stride: one product gives what each output owes to each tap, and the gradient of the
    # gathering puts it in place.
    matrix = kernel.reshape(-1, kernel.shape[-1]).T
    owed = jnp.matmul(gradient, matrix, preferred_element_type=jnp.float32)

    def gather(x: jax.Array) -> jax.Array:
        seen = kernel_views(x, kernel.shape[:2], stride, padding)
        return jnp.concatenate(list(seen.values()), axis=-1)

    to_x = jax.vjp(gather, x.astype(jnp.float32))[1](owed)[0]
    return to_x.astype(x.dtype), to_kernel


def _im2col_rows(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    rows, columns, channels, features = kernel.shape
    matrices = kernel.reshape(rows, columns * channels, features)
    gathered = _gathered(x, (rows, columns), stride, padding)
    product = partial(jnp.matmul, preferred_element_type=jnp.float32)
    return sum(map(product, gathered, matrices)).astype(x.dtype)


def _im2col(x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding) -> jax.Array:
    seen = kernel_views(x, kernel.shape[:2], stride, padding)
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
    x = padded(x, padding)
    batch, height, width, channels = x.shape
    high, wide = (height - rows) // stride + 1, (width - columns) // stride + 1
    if wide >= columns:
        seen = kernel_views(x, size, stride, ((0, 0), (0, 0)))
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


def kernel_views(
    x: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> dict[tuple[int, int], jax.Array]:
    """What each tap (i, j) of a kernel sees: `{(i, j): [B, H', W', C]}`."""
    x = padded(x, padding)
    high, wide = (
        (x.shape[axis] - k) // stride * stride + 1 for axis, k in zip((1, 2), size, strict=True)
    )
    return {
        (i, j): x[:, i : i + high : stride, j : j + wide : stride]
        for i in range(size[0])
        for j in range(size[1])
    }


def padded(x: jax.Array, padding: Padding) -> jax.Array:
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
