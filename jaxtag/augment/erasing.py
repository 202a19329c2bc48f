"""Random erasing (Zhong et al. 2020, arXiv:1708.04896) with timm's and torchvision's numbers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxtag.array_types import AnyArray, Images
from jaxtag.augment.rng import Part, draw

_AREA = (0.02, 1 / 3)  # fraction of the image
_RATIO = (0.3, 1 / 0.3)  # height : width, uniform in its logarithm
_ATTEMPTS = 10  # to draw a box smaller than the image in both directions


def random_erasing(
    images: Images, key: PRNGKeyArray, probability: float
) -> Float[Array, "B H W C"]:
    """Fills a random box of each image with 0, the mean of normalized images."""
    height, width = images.shape[1:3]
    boxes = draw(
        key,
        images.shape[0],
        Part.ERASING,
        lambda k: _draw_box(k, height, width, probability),
    )
    return jnp.where(inside(boxes, height, width)[..., None], 0, images)


def inside(
    boxes: Int[AnyArray, "B 4"], height: int, width: int
) -> Bool[Array, "B {height} {width}"]:
    """A mask of the pixels inside each box.

    Args:
        boxes: the first row and column inside, and the first below and to the right.
    """
    top, left, bottom, right = boxes.T[..., None]
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    return in_rows[:, :, None] & in_columns[:, None, :]


def _draw_box(key: PRNGKeyArray, height: int, width: int, probability: float) -> Int[Array, "4"]:
    """A box as `inside` takes it; without area where nothing is to be erased."""
    apply_key, area_key, ratio_key, corner_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, (_ATTEMPTS,), minval=_AREA[0], maxval=_AREA[1])
    low, high = jnp.log(jnp.asarray(_RATIO))
    ratio = jnp.exp(jax.random.uniform(ratio_key, (_ATTEMPTS,), minval=low, maxval=high))
    box_heights = jnp.round(jnp.sqrt(area * height * width * ratio)).astype(jnp.int32)
    box_widths = jnp.round(jnp.sqrt(area * height * width / ratio)).astype(jnp.int32)
    fits = (box_heights < height) & (box_widths < width)
    erases = fits.any() & jax.random.bernoulli(apply_key, probability)
    size = jnp.stack([box_heights, box_widths])[:, jnp.argmax(fits)]
    corner = jax.random.randint(corner_key, (2,), 0, jnp.asarray([height, width]) - size + 1)
    return jnp.where(erases, jnp.concatenate([corner, corner + size]), 0)
