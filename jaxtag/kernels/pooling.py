"""Pooling over windows of pixels."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from jaxtag.kernels.conv_cpu import Padding, kernel_views


def max_pool(
    x: jax.Array, window: int, stride: int, padding: int = 0, ceil: bool = False
) -> jax.Array:
    """Largest value of each window and channel: `[B, H, W, C] -> [B, H', W', C]`.

    The gradient goes to the first of equal values, row by row, as in torch.

    Args:
      padding: pixels on each side that never win.
      ceil: windows may reach over the lower and right border, as torch's `ceil_mode`.
    """
    return _max_pool(x, window, stride, _pads(x.shape[1:3], window, stride, padding, ceil))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: int, stride: int, pads: Padding) -> jax.Array:
    # On CPU XLA's own form takes up to five times as long as pixel after pixel of the windows; on
    # GPU it writes float32 values and places beside them.

    def by_taps(x: jax.Array) -> jax.Array:
        return reduce(jnp.maximum, _windows(x, window, stride, pads))

    native = partial(_native, window=window, stride=stride, pads=pads)
    return lax.platform_dependent(x, cpu=by_taps, cuda=by_taps, default=native)


def _windows(x: jax.Array, window: int, stride: int, pads: Padding) -> tuple[jax.Array, ...]:
    """For each place in a window the pixels there of all windows."""
    edges = [(first, last, 0) for first, last in pads]
    padded = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return tuple(kernel_views(padded, (window, window), stride, ((0, 0), (0, 0))).values())


def _forward(x, window, stride, pads):
    y = _max_pool(x, window, stride, pads)
    kind = jnp.int8 if window**2 <= jnp.iinfo(jnp.int8).max else jnp.int32

    def with_places(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        won = jnp.zeros(y.shape, kind)
        for place, seen in reversed(list(enumerate(_windows(x, window, stride, pads)))):
            won = jnp.where(seen == y, kind(place), won)
        return lax.optimization_barrier((y, won))  # not from x once more in the backward pass

    def without(_: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return y, jnp.zeros(y.shape, kind)

    y, won = lax.platform_dependent(x, y, cpu=with_places, cuda=with_places, default=without)
    return y, (x, won)


def _backward(window, stride, pads, saved, gradient):
    """By the place in its window that won. XLA's own gradient (select and scatter) is a scalar loop
    on CPU, and adds atomically on GPU."""

    def native(x, _, gradient):
        form = partial(_native, window=window, stride=stride, pads=pads)
        return jax.vjp(form, x)[1](gradient)[0]

    def by_places(x, won, gradient):
        if window == stride:
            return _apart(x.shape, won, gradient, window, pads)
        form = partial(_windows, window=window, stride=stride, pads=pads)
        owed = tuple(jnp.where(won == place, gradient, 0) for place in range(window**2))
        return jax.vjp(form, x)[1](owed)[0]

    forms = {"cpu": by_places, "cuda": by_places, "default": native}
    return (lax.platform_dependent(*saved, gradient, **forms),)


_max_pool.defvjp(_forward, _backward)


def _apart(
    shape: tuple[int, ...], won: jax.Array, gradient: jax.Array, window: int, pads: Padding
) -> jax.Array:
    """The gradient where windows share no pixel: each pixel looks whether its window took it."""
    batch, _, _, channels = won.shape
    seen = [
        (0, -(-(size + first) // window) - windows, 0)  # windows that reach beyond the picture
        for size, (first, _), windows in zip(shape[1:3], pads, won.shape[1:3], strict=True)
    ]
    edges = ((0, 0, 0), *seen, (0, 0, 0))
    won = lax.pad(won, jnp.asarray(-1, won.dtype), edges)[:, :, None, :, None]
    gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), edges)[:, :, None, :, None]
    places = jnp.arange(window**2, dtype=won.dtype).reshape(window, 1, window, 1)
    owed = jnp.where(won == places, gradient, 0)
    owed = owed.reshape(batch, owed.shape[1] * window, owed.shape[3] * window, channels)
    (top, _), (left, _) = pads
    return owed[:, top : top + shape[1], left : left + shape[2]]


def _native(x: jax.Array, window: int, stride: int, pads: Padding) -> jax.Array:
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), *pads, (0, 0)),
    )


def _pads(size: tuple[int, int], window: int, stride: int, padding: int, ceil: bool) -> Padding:
    pairs = []
    for length in size:
        last = padding
        if ceil:
            steps = -(-(length + 2 * padding - window) // stride)
            if steps * stride >= length + padding:  # the window would start beyond the border
                steps -= 1
            last = max(steps * stride + window - length - padding, padding)
        pairs.append((padding, last))
    return tuple(pairs)


def adaptive_mean_pool(x: jax.Array, size: int) -> jax.Array:
    """Means over `size` x `size` nearly equal, where need be overlapping parts of the picture.

    `[B, H, W, C] -> [B, size, size, C]`, as `torch.nn.AdaptiveAvgPool2d`.
    """
    for axis in (1, 2):
        x = jnp.moveaxis(_adaptive(jnp.moveaxis(x, axis, -1), size), -1, axis)
    return x


def _adaptive(x: jax.Array, size: int) -> jax.Array:
    length = x.shape[-1]
    if length == size:
        return x
    parts = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    return jnp.stack([x[..., first:last].mean(-1) for first, last in parts], axis=-1)
