"""Forms of a convolution that XLA's CPU backend computes faster than its own.

They serve where oneDNN is not installed, and programs that run on several CPU devices; 1x1 and
large ones (`suits_products`) always (figures in benchmarks/README.md):

- 1x1: a matrix product;
- few channels and taps: a matrix product over patches (im2col);
- depthwise: a sum over the taps of the kernel, which XLA fuses into one pass over the image;
- dense: XLA's own for the output and (stride 1, as a convolution with the flipped kernel) for the
  gradient of the input; matrix products over rows of patches for the gradient of the kernel, and in
  place of XLA's where the kernel is large or the arithmetic bfloat16.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Shaped

from jaxtag.distributed import mesh

Padding = tuple[tuple[int, int], tuple[int, int]]  # pixels (above, below), (left, right)


def output(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw I O"],
    *,
    stride: int,
    padding: Padding,
    groups: int,
) -> Float[Array, "B h w O"]:
    """As `conv.convolve`."""
    if _is_pointwise(kernel.shape, padding, groups):
        return _pointwise(x, kernel, stride=stride)
    if _is_depthwise(x, kernel, groups):
        return _depthwise(x, kernel, stride=stride, padding=padding)
    if groups == 1 and _is_thin(kernel):
        return _im2col(x, kernel, stride=stride, padding=padding)
    if groups == 1 and _im2col_pays(x, kernel):
        return _im2col_rows(x, kernel, stride=stride, padding=padding)
    return native(x, kernel, stride=stride, padding=padding, groups=groups)


def gradients(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw I O"],
    gradient: Float[Array, "B h w O"],
    *,
    stride: int,
    padding: Padding,
    groups: int,
) -> tuple[Float[Array, "B H W C"], Float[Array, "kh kw I O"]]:
    """The gradients of the images and of the kernel, from that of the output."""
    if _is_pointwise(kernel.shape, padding, groups):
        return _pointwise_gradients(x, kernel, gradient, stride=stride)
    if _is_depthwise(x, kernel, groups):
        return _depthwise_gradients(x, kernel, gradient, stride=stride, padding=padding)
    return _dense_gradients(x, kernel, gradient, stride=stride, padding=padding, groups=groups)


def _is_pointwise(kernel: tuple[int, ...], padding: Padding, groups: int) -> bool:
    return kernel[:2] == (1, 1) and groups == 1 and not np.any(padding)


def _is_depthwise(x: Array, kernel: Array, groups: int) -> bool:
    return groups > 1 and groups == x.shape[-1] and kernel.shape[-1] == groups


def _is_thin(kernel: Array) -> bool:
    """Few values to a patch: XLA's convolution takes 14 times a product's time for 12 of them."""
    return math.prod(kernel.shape[:-1]) <= 32


def suits_products(kernel: tuple[int, ...], padding: Padding, groups: int) -> bool:
    """Whether a step with matrix products of XLA's is faster than one with oneDNN's convolution.

    1x1: MobileNetV2's step by a sixth, ResNet-50's by a twelfth. 9x9 over 256 channels: CapsNet's
    by a twelfth, in float32 and in bfloat16.

    Args:
        kernel: its shape.
    """
    return _is_pointwise(kernel, padding, groups) or (groups == 1 and _is_large(kernel))


def _is_large(kernel: tuple[int, ...]) -> bool:
    return kernel[0] * kernel[1] > 25 and min(kernel[2:]) >= 16


def _im2col_pays(x: Array, kernel: Array) -> bool:
    """Whether products over rows of patches beat XLA's convolution.

    They do where an image is no larger than the kernel: 3x3 over 2x2 pixels of 512 channels takes
    a hundredth of XLA's time.

    The 9x9 convolution of CapsNet takes 0.4 of XLA's time. In bfloat16 each does: XLA converts the
    operands of a convolution to float32 first, not those of a product; with few channels im2col
    takes longer.
    """
    if min(x.shape[1:3]) <= max(kernel.shape[:2]) and min(kernel.shape[2:]) >= 16:
        return True
    if kernel.dtype == jnp.bfloat16:
        return min(kernel.shape[2:]) >= 32
    return _is_large(kernel.shape)


def native(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw I O"],
    *,
    stride: int,
    padding: Padding,
    groups: int,
) -> Float[Array, "B h w O"]:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _pointwise(x: Array, kernel: Array, *, stride: int) -> Array:
    return _matmul(x[:, ::stride, ::stride], kernel[0, 0])


def _pointwise_gradients(
    x: Array, kernel: Array, gradient: Array, *, stride: int
) -> tuple[Array, Array]:
    # The gradient that JAX makes of `_pointwise` contracts three dimensions; XLA transposes the
    # images for that.
    strided, transpose = jax.vjp(lambda x: x[:, ::stride, ::stride], x)
    kernel_gradient = _matmul_over_pixels(strided, gradient).reshape(kernel.shape)
    x_gradient = transpose(_matmul(gradient, kernel[0, 0].T))[0]
    return x_gradient, kernel_gradient.astype(kernel.dtype)


def _matmul(x: Array, matrix: Array) -> Array:
    """`[..., C]` and `[C, O]` to `[..., O]` in x's dtype, summed in float32.

    With preferred_element_type=float32 the bfloat16 matmul takes a third of the float32 time on a
    CPU that has instructions for it; otherwise XLA converts both operands to float32 first.
    """
    return jnp.matmul(x, matrix, preferred_element_type=jnp.float32).astype(x.dtype)


def _matmul_over_pixels(x: Array, gradient: Array) -> Array:
    """`[B, H, W, C]` and `[B, H, W, O]` to `[C, O]` float32."""
    x, gradient = (a.reshape(-1, a.shape[-1]) for a in (x, gradient))
    if x.dtype == jnp.bfloat16 and mesh.num_batch_shards() == 1:
        # Fast only where the first operand lies row by row. XLA splits no array with a layout
        # constraint between devices: each would get the images of all.
        transposed = with_layout_constraint(gradient.T, Layout((0, 1)))
        product = jnp.matmul(transposed, x, preferred_element_type=jnp.float32)
        return lax.optimization_barrier(product).T
    matmul = partial(jnp.einsum, "nc,no->co", preferred_element_type=jnp.float32)
    # Twice as fast with the smaller side first.
    return matmul(x, gradient) if x.shape[1] <= gradient.shape[1] else matmul(gradient, x).T


def _depthwise(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    views = kernel_views(x, kernel.shape[:2], stride, padding)
    return _sum(view * kernel[i, j, 0] for (i, j), view in views.items())


def _depthwise_gradients(
    x: Array, kernel: Array, gradient: Array, *, stride: int, padding: Padding
) -> tuple[Array, Array]:
    views = kernel_views(x, kernel.shape[:2], stride, padding)
    sums = [
        jnp.einsum("bhwc,bhwc->c", view, gradient, preferred_element_type=jnp.float32)
        for view in views.values()
    ]
    kernel_gradient = jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)
    if stride == 1:
        flipped = kernel[::-1, ::-1]
        transposed = _transposed_padding(x, kernel, gradient, padding)
        return _depthwise(gradient, flipped, stride=1, padding=transposed), kernel_gradient
    form = partial(_depthwise, kernel=kernel, stride=stride, padding=padding)
    return jax.vjp(form, x)[1](gradient)[0], kernel_gradient


def _dense_gradients(
    x: Array,
    kernel: Array,
    gradient: Array,
    *,
    stride: int,
    padding: Padding,
    groups: int = 1,
) -> tuple[Array, Array]:
    if groups > 1:
        parts = zip(
            jnp.split(x, groups, axis=-1),
            jnp.split(kernel, groups, axis=-1),
            jnp.split(gradient, groups, axis=-1),
            strict=True,
        )
        pairs = [_dense_gradients(*part, stride=stride, padding=padding) for part in parts]
        x_gradients, kernel_gradients = zip(*pairs, strict=True)
        return jnp.concatenate(x_gradients, axis=-1), jnp.concatenate(kernel_gradients, axis=-1)
    kernel_gradient = _kernel_gradient(x, kernel, gradient, stride, padding)
    if stride == 1:
        flipped = kernel[::-1, ::-1].swapaxes(2, 3)
        transposed = _transposed_padding(x, kernel, gradient, padding)
        form = _im2col_rows if _im2col_pays(gradient, flipped) else partial(native, groups=1)
        return form(gradient, flipped, stride=1, padding=transposed), kernel_gradient
    # With a stride: one product gives the share of each output in each tap, and the gradient of the
    # gathering adds it up in place (col2im).
    matrix = kernel.reshape(-1, kernel.shape[-1]).T
    columns = jnp.matmul(gradient, matrix, preferred_element_type=jnp.float32)

    def im2col(x: Array) -> Array:
        views = kernel_views(x, kernel.shape[:2], stride, padding)
        return jnp.concatenate(list(views.values()), axis=-1)

    x_gradient = jax.vjp(im2col, x.astype(jnp.float32))[1](columns)[0]
    return x_gradient.astype(x.dtype), kernel_gradient


def _im2col_rows(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    rows, columns, channels, features = kernel.shape
    matrices = kernel.reshape(rows, columns * channels, features)
    patches = _row_patches(x, (rows, columns), stride, padding)
    matmul = partial(jnp.matmul, preferred_element_type=jnp.float32)
    return _sum(map(matmul, patches, matrices)).astype(x.dtype)


def _im2col(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    views = kernel_views(x, kernel.shape[:2], stride, padding)
    patches = jnp.concatenate(list(views.values()), axis=-1)
    return _matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


def _sum(terms: Iterable[Array]) -> Array:
    return cast(Array, sum(terms))


def _row_patches(x: Array, size: tuple[int, ...], stride: int, padding: Padding) -> list[Array]:
    """For each row of a kernel the views of its taps, side by side: `[B, H', W', columns * C]`."""
    if x.dtype == jnp.bfloat16:
        # On CPU XLA converts the operands of a concatenation to float32, and back after it.
        bits = lax.bitcast_convert_type(x, jnp.uint16)
        patches = _row_patches(bits, size, stride, padding)
        return [lax.bitcast_convert_type(row, x.dtype) for row in patches]
    rows, columns = size
    x = pad(x, padding)
    batch, height, width, channels = x.shape
    high, wide = (height - rows) // stride + 1, (width - columns) // stride + 1
    if wide >= columns:
        views = kernel_views(x, size, stride, ((0, 0), (0, 0)))
        return [jnp.concatenate([views[i, j] for j in range(columns)], -1) for i in range(rows)]
    # Fewer and longer pieces: the pixels of a row that an output sees lie side by side already.
    lines = x.reshape(batch, height, width * channels)
    starts = [stride * channels * j for j in range(wide)]
    return [
        jnp.stack([line[..., start : start + columns * channels] for start in starts], axis=2)
        for line in (lines[:, i : i + stride * high : stride] for i in range(rows))
    ]


def _kernel_gradient(
    x: Array, kernel: Array, gradient: Array, stride: int, padding: Padding
) -> Array:
    patches = _row_patches(x, kernel.shape[:2], stride, padding)
    sums = [_matmul_over_pixels(row, gradient) for row in patches]
    return jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)


def kernel_views(
    x: Shaped[Array, "B H W C"], size: tuple[int, ...], stride: int, padding: Padding
) -> dict[tuple[int, int], Array]:
    """The pixels under each tap (i, j) of a kernel: `{(i, j): [B, H', W', C]}`."""
    x = pad(x, padding)
    high, wide = (
        (x.shape[axis] - k) // stride * stride + 1 for axis, k in zip((1, 2), size, strict=True)
    )
    return {
        (i, j): x[:, i : i + high : stride, j : j + wide : stride]
        for i in range(size[0])
        for j in range(size[1])
    }


def pad(x: Shaped[Array, "B H W C"], padding: Padding) -> Shaped[Array, "B h w C"]:
    """Pads images with zeros, or crops them where the padding is negative."""
    pads = [(first, last, 0) for first, last in padding]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


def _transposed_padding(x: Array, kernel: Array, gradient: Array, padding: Padding) -> Padding:
    """The padding with which the flipped kernel maps a gradient (stride 1) to the size of `x`.

    Negative where the padding is wider than the kernel reaches: those pixels belong to the padding.
    """
    pairs = []
    for axis, (k, (first, _)) in enumerate(zip(kernel.shape[:2], padding, strict=True), start=1):
        before = k - 1 - first
        pairs.append((before, x.shape[axis] - (gradient.shape[axis] + before - k + 1)))
    return (pairs[0], pairs[1])
