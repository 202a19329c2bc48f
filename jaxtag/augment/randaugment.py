"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719): N of 14 operations, all at one magnitude.

Operations and magnitudes are those of torchvision's `RandAugment` (31 bins, nearest neighbour,
black outside). They are of five kinds, so that on an accelerator, where every example pays for
every kind, this is one gather for all that move pixels, one look-up for all that map values, and
two blends. On CPU the examples come one after the other and pay for their own kind alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxtag.augment import color, geometry
from jaxtag.augment.rng import Part, draw

MAXIMUM = 30  # magnitude
_MAPS = {
    "ShearX": geometry.shear_x,
    "ShearY": geometry.shear_y,
    "TranslateX": geometry.translate_x,
    "TranslateY": geometry.translate_y,
    "Rotate": geometry.rotate,
}
_TABLES = {
    "Brightness": color.brightness,
    "Contrast": color.contrast,
    "Posterize": color.posterize,
    "Solarize": color.solarize,
    "AutoContrast": color.autocontrast,
    "Equalize": color.equalize,
}
OPERATIONS = ("Identity", *_MAPS, *_TABLES, "Color", "Sharpness")
SIGNED = (*_MAPS, "Brightness", "Contrast", "Color", "Sharpness")


def levels(magnitude: int, height: int, width: int) -> np.ndarray:
    """What `magnitude` means to each operation, float32 [14], in the order of OPERATIONS.

    Shears are slopes, translations pixels, rotations degrees; blends are differences from the
    factor 1, posterize bits, solarize a threshold from 0 to 1.
    """
    share = magnitude / MAXIMUM
    known = dict.fromkeys(OPERATIONS, 0.0)
    known |= dict.fromkeys(("ShearX", "ShearY"), 0.3 * share)
    known |= {"TranslateX": 150 / 331 * width * share, "TranslateY": 150 / 331 * height * share}
    known |= {"Rotate": 30 * share}
    known |= dict.fromkeys(("Brightness", "Contrast", "Color", "Sharpness"), 0.9 * share)
    known |= {"Posterize": round(8 - 4 * share), "Solarize": 1 - share}
    return np.array([known[name] for name in OPERATIONS], np.float32)


def random_augment(images: jax.Array, key: jax.Array, operations: int, magnitude: int) -> jax.Array:
    """`operations` drawn one after the other for each of `images` uint8 [B, H, W, C].

    Half of the time the level of an operation that has a direction is negative.
    """
    count, height, width, _ = images.shape

    def sample(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        which, sign = jax.random.split(key)
        return (
            jax.random.randint(which, (operations,), 0, len(OPERATIONS)),
            jax.random.rademacher(sign, (operations,), jnp.float32),
        )

    chosen, signs = draw(key, count, Part.RANDAUGMENT, sample)
    signed = np.array([name in SIGNED for name in OPERATIONS])
    level = jnp.asarray(levels(magnitude, height, width))[chosen]
    level = jnp.where(jnp.asarray(signed)[chosen], level * signs, level)
    return apply(images, chosen, level)


def apply(images: jax.Array, operations: jax.Array, levels: jax.Array) -> jax.Array:
    """The operations int32 [B, N] (places in OPERATIONS) at `levels` float32 [B, N], in turn."""
    return lax.platform_dependent(images, operations, levels, cpu=one_by_one, default=all_at_once)


def all_at_once(images: jax.Array, operations: jax.Array, levels: jax.Array) -> jax.Array:
    """`apply`, every example at the price of every kind of operation, without a loop."""
    return jax.vmap(_apply)(images, operations, levels)


def one_by_one(images: jax.Array, operations: jax.Array, levels: jax.Array) -> jax.Array:
    """`apply`, each example in its turn, at the price of its own operations."""
    return lax.map(lambda example: _apply(*example), (images, operations, levels))


def _apply(image: jax.Array, operations: jax.Array, levels: jax.Array) -> jax.Array:
    for operation, level in zip(operations, levels, strict=True):
        image = _operate(image, operation, level)
    return image


def _operate(image: jax.Array, operation: jax.Array, level: jax.Array) -> jax.Array:
    first_map, first_table = 1, 1 + len(_MAPS)

    def moved(image: jax.Array) -> jax.Array:
        maps = [lambda by, of=of: of(by, *image.shape[:2]) for of in _MAPS.values()]
        return geometry.affine(image, lax.switch(operation - first_map, maps, level))

    def mapped(image: jax.Array) -> jax.Array:
        blends = (operation == OPERATIONS.index("Brightness")) | (
            operation == OPERATIONS.index("Contrast")
        )
        value = jnp.where(blends, 1 + level, level)
        table = lax.switch(operation - first_table, list(_TABLES.values()), image, value)
        return color.look_up(image, table)

    kinds = [
        lambda image: image,
        moved,
        mapped,
        lambda image: color.saturation(image, 1 + level),
        lambda image: color.sharpness(image, 1 + level),
    ]
    kind = np.array([0] + [1] * len(_MAPS) + [2] * len(_TABLES) + [3, 4])
    return lax.switch(jnp.asarray(kind)[operation], kinds, image)
