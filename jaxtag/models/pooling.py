"""Pooling over windows of pixels."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from jaxtag.models.conv import Padding, taps


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
    # On CPU XLA's own form takes up to five times as long as pixel after pixel of the windows.

    def cpu(x: jax.Array) -> jax.Array:
        return reduce(jnp.maximum, _windows(x, window, stride, pads))

    native = partial(_native, window=window, stride=stride, pads=pads)
    return lax.platform_dependent(x, cpu=cpu, default=native)


def _windows(x: jax.Array, window: int, stride: int, pads: Padding) -> tuple[jax.Array, ...]:
    """For each place in a window the pixels there of all windows."""
    edges = [(first, last, 0) for first, last in pads]
    padded = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return tuple(taps(padded, (window, window), stride, ((0, 0), (0, 0))).values())


def _forward(x, window, stride, pads):
    y = _max_pool(x, window, stride, pads)
    return y, (x, y)


def _backward(window, stride, pads, saved, gradient):
    """XLA's own gradient (select and scatter) is a scalar loop on CPU."""

    def native(x, _, gradient):
        form = partial(_native, window=window, stride=stride, pads=pads)
        return jax.vjp(form, x)[1](gradient)[0]

    def cpu(x, y, gradient):
        if window == stride:
            return _apart(x, y, gradient, window, pads)

        seen, back = jax.vjp(partial(_windows, window=window, stride=stride, pads=pads), x)
        taken, owed = jnp.zeros(y.shape, bool), []
        for tap in seen:
            hit = (tap == y) & ~taken
            taken |= hit
            owed.append(jnp.where(hit, gradient, 0))
        return back(tuple(owed))[0]

    return (lax.platform_dependent(*saved, gradient, cpu=cpu, default=native),)


_max_pool.defvjp(_forward, _backward)


def _apart(
    x: jax.Array, y: jax.Array, gradient: jax.Array, window: int, pads: Padding
) -> jax.Array:
    """The gradient where windows share no pixel: each pixel looks whether its window took it."""
    batch, high, wide, channels = y.shape
    sizes = (high * window, wide * window)
    edges = [
        (first, size - length - first, 0)
        for (first, _), size, length in zip(pads, sizes, x.shape[1:3], strict=True)
    ]
    padded = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    seen = taps(padded, (window, window), window, ((0, 0), (0, 0)))
    taken = jnp.zeros(y.shape, jnp.int8)
    for place, tap in reversed(list(enumerate(seen.values()))):
        taken = jnp.where(tap == y, jnp.int8(place), taken)
    taken = lax.optimization_barrier(taken)  # once a window, not once a pixel
    places = jnp.arange(window**2, dtype=jnp.int8).reshape(window, 1, window, 1)
    mine = taken[:, :, None, :, None] == places
    owed = jnp.where(mine, gradient[:, :, None, :, None], 0).reshape(batch, *sizes, channels)
    back = [(-first, -last, 0) for first, last, _ in edges]
    return lax.pad(owed, jnp.zeros((), x.dtype), ((0, 0, 0), *back, (0, 0, 0)))


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
