"""Augmentation on the device, inside the jitted step: pure functions of (images, key).

Every example draws from a key of its own, folded from the step's key with its position in the
global batch: the same numbers on any mesh. JAX's default partitionable Threefry lets each
device make its own share of them without communication.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def augment(
    images: jax.Array, key: jax.Array, *, flip: bool = True, max_shift: int = 0
) -> jax.Array:
    """Mirrors half of the examples left to right and moves each by a few pixels.

    Args:
        images: [B, H, W, C] of any dtype, the global batch.
        key: of this step.
        flip: mirror each example with probability 1/2.
        max_shift: largest displacement down and right in pixels, uniform in
            [-max_shift, max_shift]; the edge pixels are repeated into the gap. 0: none.

    Returns:
        Same shape and dtype.
    """
    keys = example_keys(key, images.shape[0])
    if flip:
        mirrored = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 0)))(keys)
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    if max_shift:
        images = jax.vmap(lambda k, x: _shift(x, jax.random.fold_in(k, 1), max_shift))(keys, images)
    return images


def normalize(
    images: jax.Array,
    mean: ArrayLike,
    std: ArrayLike,
    dtype: jnp.dtype = jnp.float32,
) -> jax.Array:
    """(images / 255 - mean) / std; uint8 [B, H, W, C] to `dtype`, computed in float32.

    `mean` and `std` are a channel's, [C] or one number, on the scale from 0 to 1.
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    # One multiplication and one addition a value.
    factor = 1 / (255 * std)
    return (images.astype(jnp.float32) * factor - mean / std).astype(dtype)


def example_keys(key: jax.Array, count: int) -> jax.Array:
    """A key for each of `count` examples, by position: [count] keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))


def _shift(image: jax.Array, key: jax.Array, max_shift: int) -> jax.Array:
    """`image` [H, W, C] moved by a random number of pixels in each direction."""
    down, right = jax.random.randint(key, (2,), -max_shift, max_shift + 1)
    rows = jnp.clip(jnp.arange(image.shape[0]) - down, 0, image.shape[0] - 1)
    columns = jnp.clip(jnp.arange(image.shape[1]) - right, 0, image.shape[1] - 1)
    return image[rows][:, columns]
