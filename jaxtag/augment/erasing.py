"""Random erasing (Zhong et al. 2020, arXiv:1708.04896) with timm's and torchvision's numbers."""

import jax
import jax.numpy as jnp

from jaxtag.augment.rng import Part, draw

_AREA = (0.02, 1 / 3)  # of the picture
_RATIO = (0.3, 1 / 0.3)  # height : width, uniform in its logarithm
_ATTEMPTS = 10  # to find a box smaller than the picture in both directions


def random_erasing(images: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Puts 0, the mean of normalised pictures, in a box of each of `images` [B, H, W, C]."""
    height, width = images.shape[1:3]
    boxes = draw(
        key,
        images.shape[0],
        Part.ERASING,
        lambda k: _draw_box(k, height, width, probability),
    )
    return jnp.where(inside(boxes, height, width)[..., None], 0, images)


def inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Which pixels, bool [B, height, width], are in `boxes` int32 [B, 4]: the first row and
    column in it, and the first below and to the right of it."""
    top, left, bottom, right = boxes.T[..., None]
    rows, columns = jnp.arange(height), jnp.arange(width)
    across = (rows >= top) & (rows < bottom)
    along = (columns >= left) & (columns < right)
    return across[:, :, None] & along[:, None, :]


def _draw_box(key: jax.Array, height: int, width: int, probability: float) -> jax.Array:
    """int32 [4] as `inside` takes it; without area where nothing is to be erased."""
    apply_key, area_key, ratio_key, place_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, (_ATTEMPTS,), minval=_AREA[0], maxval=_AREA[1])
    low, high = jnp.log(jnp.asarray(_RATIO))
    ratio = jnp.exp(jax.random.uniform(ratio_key, (_ATTEMPTS,), minval=low, maxval=high))
    high_box = jnp.round(jnp.sqrt(area * height * width * ratio)).astype(jnp.int32)
    wide_box = jnp.round(jnp.sqrt(area * height * width / ratio)).astype(jnp.int32)
    fits = (high_box < height) & (wide_box < width)
    erases = fits.any() & jax.random.bernoulli(apply_key, probability)
    size = jnp.stack([high_box, wide_box])[:, jnp.argmax(fits)]
    corner = jax.random.randint(place_key, (2,), 0, jnp.asarray([height, width]) - size + 1)
    return jnp.where(erases, jnp.concatenate([corner, corner + size]), 0)
