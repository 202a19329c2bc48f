"""Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899).

Each example is mixed with the one before it in the global batch (as in torchvision), which on a
mesh is the same device's but for one: a device gets one picture from its neighbour.
"""

import jax
import jax.numpy as jnp

from jaxtag.augment.erasing import inside
from jaxtag.augment.rng import Part, draw


def random_mix(
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    mixup: float,
    cutmix: float,
    mixup_switch_prob: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
    """Mixes each example with its predecessor by mixup or CutMix, drawn for each example.

    Args:
        images: float [B, H, W, C], normalised.
        labels: float32 [B, K], one-hot or soft.
        mixup, cutmix: alpha of the Beta(alpha, alpha) that the share of the example's own comes
            from; 0 for never.
        mixup_switch_prob: of the examples that CutMix gets where both are on (timm's switch_prob).

    Returns:
        (images, labels) of the same shapes and dtypes.
    """
    height, width = images.shape[1:3]
    cut_probability = mixup_switch_prob if mixup and cutmix else float(bool(cutmix))

    def sample(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        kind_key, share_key, box_key = jax.random.split(key, 3)
        cut = jax.random.bernoulli(kind_key, cut_probability)
        alpha = jnp.where(cut, cutmix or 1.0, mixup or 1.0)
        share = jax.random.beta(share_key, alpha, alpha)
        box = cutmix_box(box_key, share, height, width)
        return jnp.where(cut, 1.0, share), jnp.where(cut, box, 0)

    shares, boxes = draw(key, images.shape[0], Part.MIXING, sample)
    return mix(images, labels, shares, boxes)


def cutmix_box(key: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """A box int32 [4] (see `erasing.inside`) of about 1 - `share` of the area, cut at the edges.

    Its middle is uniform in the picture (section 3.1 of the paper, and timm).
    """
    size = jnp.asarray([height, width])
    half = (size * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
    middle = jax.random.randint(key, (2,), 0, size)
    return jnp.concatenate([jnp.maximum(middle - half, 0), jnp.minimum(middle + half, size)])


def mix(
    images: jax.Array, labels: jax.Array, shares: jax.Array, boxes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The predecessor's pixels in the boxes, elsewhere `shares` of the example's own.

    Args:
        images: float [B, H, W, C].
        labels: float32 [B, K]; mixed by the share that the example's own pixels really have.
        shares: float32 [B].
        boxes: int32 [B, 4] (see `erasing.inside`).
    """
    height, width = images.shape[1:3]
    own = jnp.where(inside(boxes, height, width), 0.0, shares[:, None, None])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    of_labels = (shares * (1 - area / (height * width)))[:, None]
    mixed = _blend(images, own[..., None].astype(images.dtype))
    return mixed, _blend(labels, of_labels)


def _blend(values: jax.Array, own: jax.Array) -> jax.Array:
    return own * values + (1 - own) * jnp.roll(values, 1, axis=0)
