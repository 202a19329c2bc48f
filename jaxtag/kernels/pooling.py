"""Pooling over windows of pixels."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxtag.kernels.conv_cpu import Padding, kernel_views
from jaxtag.kernels.implementations import platform_dependent


def max_pool(
    x: Float[Array, "B H W C"], window: int, stride: int, padding: int = 0, ceil: bool = False
) -> Float[Array, "B h w C"]:
    """The largest value of each window and channel.

    The gradient goes to the first of equal values, row by row, as in torch.

    Args:
        padding: pixels on each side that never win.
        ceil: windows may reach over the lower and right border, as torch's `ceil_mode`.
    """
    return _max_pool(x, window, stride, _pads(x.shape[1:3], window, stride, padding, ceil))


@jax.custom_vjp
def global_max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B C"]:
    """The largest value of each image and channel; equal ones share the gradient.

    That of `x.max` divides by the number of values that equal the maximum: where XLA computes `x`
    once more and rounds otherwise, none does, and the gradient is NaN. Here the first one counts
    in any case.
    """
    return x.max((1, 2))


def _global_forward(x: Array) -> tuple[Array, Array]:
    return global_max_pool(x), x


def _global_backward(x: Array, gradient: Array) -> tuple[Array]:
    pixels = x.reshape(x.shape[0], -1, x.shape[-1])
    first = lax.broadcasted_iota(jnp.int32, pixels.shape, 1) == pixels.argmax(1, keepdims=True)
    largest = (first | (pixels == pixels.max(1, keepdims=True))).astype(gradient.dtype)
    share = gradient / largest.sum(1)
    return ((largest * share[:, None]).reshape(x.shape),)


global_max_pool.defvjp(_global_forward, _global_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: int, stride: int, pads: Padding) -> Array:
    # On CPU XLA's own form takes up to five times as long as the maximum over the taps of the
    # windows; on GPU it writes float32 values and indices beside them.

    def over_taps(x: Array) -> Array:
        return reduce(jnp.maximum, _views(x, window, stride, pads))

    native = partial(_native, window=window, stride=stride, pads=pads)
    return platform_dependent(x, cpu=over_taps, cuda=over_taps, default=native)


def _views(x: Array, window: int, stride: int, pads: Padding) -> tuple[Array, ...]:
    """For each tap of a window the pixels there of all windows."""
    edges = [(first, last, 0) for first, last in pads]
    padded = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return tuple(kernel_views(padded, (window, window), stride, ((0, 0), (0, 0))).values())


def _forward(
    x: Array, window: int, stride: int, pads: Padding
) -> tuple[Array, tuple[Array, Array]]:
    """With the index in its window of each maximum as a residual, where the gradient uses it."""
    y = _max_pool(x, window, stride, pads)
    dtype = jnp.int8 if window**2 <= jnp.iinfo(jnp.int8).max else jnp.int32

    def with_indices(x: Array, y: Array) -> tuple[Array, Array]:
        argmax = jnp.zeros(y.shape, dtype)
        for index, view in reversed(list(enumerate(_views(x, window, stride, pads)))):
            argmax = jnp.where(view == y, dtype(index), argmax)
        return lax.optimization_barrier((y, argmax))  # not from x once more in the backward pass

    def without(_: Array, y: Array) -> tuple[Array, Array]:
        return y, jnp.zeros(y.shape, dtype)

    y, argmax = platform_dependent(x, y, cpu=with_indices, cuda=with_indices, default=without)
    return y, (x, argmax)


def _backward(
    window: int, stride: int, pads: Padding, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    """By the index in its window of each maximum.

    XLA's own gradient (select and scatter) is a scalar loop on CPU, and adds atomically on GPU.
    """

    def native(x: Array, _: Array, gradient: Array) -> Array:
        form = partial(_native, window=window, stride=stride, pads=pads)
        return jax.vjp(form, x)[1](gradient)[0]

    def by_index(x: Array, argmax: Array, gradient: Array) -> Array:
        if window == stride:
            return _disjoint_gradient(x.shape, argmax, gradient, window, pads)
        form = partial(_views, window=window, stride=stride, pads=pads)
        gradients = tuple(jnp.where(argmax == index, gradient, 0) for index in range(window**2))
        return jax.vjp(form, x)[1](gradients)[0]

    x, argmax = residuals
    return (platform_dependent(x, argmax, gradient, cpu=by_index, cuda=by_index, default=native),)


_max_pool.defvjp(_forward, _backward)


def _disjoint_gradient(
    shape: tuple[int, ...], argmax: Array, gradient: Array, window: int, pads: Padding
) -> Array:
    """The gradient where windows share no pixel: each pixel looks up whether its window took it."""
    batch, _, _, channels = argmax.shape
    beyond = [
        (0, -(-(size + first) // window) - windows, 0)  # windows that reach beyond the image
        for size, (first, _), windows in zip(shape[1:3], pads, argmax.shape[1:3], strict=True)
    ]
    edges = ((0, 0, 0), *beyond, (0, 0, 0))
    argmax = lax.pad(argmax, jnp.asarray(-1, argmax.dtype), edges)[:, :, None, :, None]
    gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), edges)[:, :, None, :, None]
    indices = jnp.arange(window**2, dtype=argmax.dtype).reshape(window, 1, window, 1)
    pixels = jnp.where(argmax == indices, gradient, 0)
    pixels = pixels.reshape(batch, pixels.shape[1] * window, pixels.shape[3] * window, channels)
    (top, _), (left, _) = pads
    return pixels[:, top : top + shape[1], left : left + shape[2]]


def _native(x: Array, window: int, stride: int, pads: Padding) -> Array:
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), *pads, (0, 0)),
    )


def _pads(size: tuple[int, ...], window: int, stride: int, padding: int, ceil: bool) -> Padding:
    pairs = []
    for length in size:
        last = padding
        if ceil:
            steps = -(-(length + 2 * padding - window) // stride)
            if steps * stride >= length + padding:  # the window would start beyond the border
                steps -= 1
            last = max(steps * stride + window - length - padding, padding)
        pairs.append((padding, last))
    return (pairs[0], pairs[1])


def adaptive_mean_pool(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B {size} {size} C"]:
    """Means over `size` x `size` nearly equal, where needed overlapping parts of the image.

    As `torch.nn.AdaptiveAvgPool2d`.
    """
    for axis in (1, 2):
        x = jnp.moveaxis(_adaptive(jnp.moveaxis(x, axis, -1), size), -1, axis)
    return x


def _adaptive(x: Array, size: int) -> Array:
    length = x.shape[-1]
    if length == size:
        return x
    parts = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    return jnp.stack([x[..., first:last].mean(-1) for first, last in parts], axis=-1)
