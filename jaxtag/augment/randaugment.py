"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719): N of 14 operations, all at one magnitude.

Operations and magnitudes are those of torchvision's `RandAugment` (31 bins, nearest neighbor,
black outside). They are of five kinds, so that on an accelerator, where every example pays for
every kind, this is one gather for all that move pixels, one look-up for all that map values, and
two blends. On CPU the examples are processed one after the other and pay for their own kind alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from jaxtag.array_types import AnyArray, UInt8Images
from jaxtag.augment import color, geometry
from jaxtag.augment.rng import Part, draw

MAX_MAGNITUDE = 30
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


def levels(magnitude: int, height: int, width: int) -> Float[np.ndarray, "14"]:
    """The level that `magnitude` means to each operation, in the order of OPERATIONS.

    Shears are slopes, translations pixels, rotations degrees; blends are differences from the
    factor 1, posterize bits, solarize a threshold from 0 to 1.
    """
    fraction = magnitude / MAX_MAGNITUDE
    by_name: dict[str, float] = dict.fromkeys(OPERATIONS, 0.0)
    by_name |= dict.fromkeys(("ShearX", "ShearY"), 0.3 * fraction)
    by_name["TranslateX"] = 150 / 331 * width * fraction
    by_name["TranslateY"] = 150 / 331 * height * fraction
    by_name["Rotate"] = 30 * fraction
    by_name |= dict.fromkeys(("Brightness", "Contrast", "Color", "Sharpness"), 0.9 * fraction)
    by_name |= {"Posterize": round(8 - 4 * fraction), "Solarize": 1 - fraction}
    return np.array([by_name[name] for name in OPERATIONS], np.float32)


def random_augment(
    images: UInt8Images, key: PRNGKeyArray, operations: int, magnitude: int
) -> UInt8[Array, "B H W C"]:
    """Applies `operations` random operations to each image, one after the other.

    Half of the time the level of an operation that has a direction is negative.
    """
    count, height, width, _ = images.shape

    def sample(key: PRNGKeyArray) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
        index_key, sign_key = jax.random.split(key)
        return (
            jax.random.randint(index_key, (operations,), 0, len(OPERATIONS)),
            jax.random.rademacher(sign_key, (operations,), jnp.float32),
        )

    indices, signs = draw(key, count, Part.RANDAUGMENT, sample)
    signed = np.array([name in SIGNED for name in OPERATIONS])
    level = jnp.asarray(levels(magnitude, height, width))[indices]
    level = jnp.where(jnp.asarray(signed)[indices], level * signs, level)
    return apply(images, indices, level)


def apply(
    images: UInt8Images, operations: Int[AnyArray, "B N"], levels: Float[AnyArray, "B N"]
) -> UInt8[Array, "B H W C"]:
    """Applies the operations (indices into OPERATIONS) at their levels, in turn."""
    return lax.platform_dependent(images, operations, levels, cpu=one_by_one, default=all_at_once)


def all_at_once(
    images: UInt8Images, operations: Int[AnyArray, "B N"], levels: Float[AnyArray, "B N"]
) -> UInt8[Array, "B H W C"]:
    """`apply`, every example at the price of every kind of operation, without a loop."""
    return jax.vmap(_apply)(images, operations, levels)


def one_by_one(
    images: UInt8Images, operations: Int[AnyArray, "B N"], levels: Float[AnyArray, "B N"]
) -> UInt8[Array, "B H W C"]:
    """`apply`, each example in its turn, at the price of its own operations."""
    return lax.map(lambda example: _apply(*example), (images, operations, levels))


def _apply(
    image: UInt8[AnyArray, "H W C"], operations: Int[AnyArray, " N"], levels: Float[AnyArray, " N"]
) -> UInt8[Array, "H W C"]:
    image = jnp.asarray(image)
    for operation, level in zip(operations, levels, strict=True):
        image = _apply_one(image, operation, level)
    return image


def _apply_one(
    image: UInt8[AnyArray, "H W C"], operation: Int[AnyArray, ""], level: Float[AnyArray, ""]
) -> UInt8[Array, "H W C"]:
    first_map, first_table = 1, 1 + len(_MAPS)

    def move_pixels(image: UInt8[Array, "H W C"]) -> UInt8[Array, "H W C"]:
        maps = [lambda by, of=of: of(by, *image.shape[:2]) for of in _MAPS.values()]
        return geometry.affine(image, lax.switch(operation - first_map, maps, level))

    def map_values(image: UInt8[Array, "H W C"]) -> UInt8[Array, "H W C"]:
        blends = (operation == OPERATIONS.index("Brightness")) | (
            operation == OPERATIONS.index("Contrast")
        )
        value = jnp.where(blends, 1 + level, level)
        table = lax.switch(operation - first_table, list(_TABLES.values()), image, value)
        return color.look_up(image, table)

    kinds = [
        lambda image: image,
        move_pixels,
        map_values,
        lambda image: color.saturation(image, 1 + level),
        lambda image: color.sharpness(image, 1 + level),
    ]
    kind = np.array([0] + [1] * len(_MAPS) + [2] * len(_TABLES) + [3, 4])
    return lax.switch(jnp.asarray(kind)[operation], kinds, image)
