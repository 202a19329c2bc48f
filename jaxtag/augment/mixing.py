"""Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899).

Each example is mixed with its predecessor in the global batch (as in torchvision). On a mesh the
predecessor is on the same device but for one example: a device receives one image from its
neighbor.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxtag.array_types import AnyArray, Images
from jaxtag.augment.erasing import inside
from jaxtag.augment.rng import Part, draw


def random_mix(
    images: Images,
    labels: Float[AnyArray, "B K"],
    key: PRNGKeyArray,
    *,
    mixup: float,
    cutmix: float,
    mixup_switch_prob: float = 0.5,
) -> tuple[Float[Array, "B H W C"], Float[Array, "B K"]]:
    """Mixes each example with its predecessor by mixup or CutMix, drawn for each example.

    Args:
        images: normalized.
        labels: one-hot or soft.
        mixup: alpha of the Beta(alpha, alpha) that the example's own weight is drawn from; 0 for
            never.
        cutmix: the same for CutMix.
        mixup_switch_prob: probability of CutMix where both are on (timm's switch_prob).

    Returns:
        (images, labels) of the same shapes and dtypes.
    """
    height, width = images.shape[1:3]
    cutmix_prob = mixup_switch_prob if mixup and cutmix else float(bool(cutmix))

    def sample(key: PRNGKeyArray) -> tuple[Float[Array, ""], Int[Array, "4"]]:
        switch_key, weight_key, box_key = jax.random.split(key, 3)
        use_cutmix = jax.random.bernoulli(switch_key, cutmix_prob)
        alpha = jnp.where(use_cutmix, cutmix or 1.0, mixup or 1.0)
        weight = jax.random.beta(weight_key, alpha, alpha)
        box = cutmix_box(box_key, weight, height, width)
        return jnp.where(use_cutmix, 1.0, weight), jnp.where(use_cutmix, box, 0)

    weights, boxes = draw(key, images.shape[0], Part.MIXING, sample)
    return mix(images, labels, weights, boxes)


def cutmix_box(
    key: PRNGKeyArray, weight: Float[AnyArray, ""], height: int, width: int
) -> Int[Array, "4"]:
    """A box (see `erasing.inside`) of about 1 - `weight` of the area, clipped at the edges.

    Its center is uniform in the image (section 3.1 of the paper, and timm).
    """
    size = jnp.asarray([height, width])
    half = (size * jnp.sqrt(1 - weight)).astype(jnp.int32) // 2
    center = jax.random.randint(key, (2,), 0, size)
    return jnp.concatenate([jnp.maximum(center - half, 0), jnp.minimum(center + half, size)])


def mix(
    images: Images,
    labels: Float[AnyArray, "B K"],
    weights: Float[AnyArray, " B"],
    boxes: Int[AnyArray, "B 4"],
) -> tuple[Float[Array, "B H W C"], Float[Array, "B K"]]:
    """Takes the predecessor's pixels inside the boxes, elsewhere a weighted mean of the two.

    Args:
        labels: mixed by the fraction that the example's own pixels have in the result.
        weights: of the example's own pixels outside its box.
        boxes: see `erasing.inside`.
    """
    height, width = images.shape[1:3]
    pixel_weights = jnp.where(inside(boxes, height, width), 0.0, weights[:, None, None])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    label_weights = (weights * (1 - area / (height * width)))[:, None]
    mixed = _blend(images, pixel_weights[..., None].astype(images.dtype))
    return mixed, _blend(labels, label_weights)


def _blend(values: AnyArray, weight: AnyArray) -> Array:
    return jnp.asarray(weight * values + (1 - weight) * jnp.roll(values, 1, axis=0))
