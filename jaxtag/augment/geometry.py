"""Geometric operations on uint8 images [B, H, W, C]: flips, crops and affine maps."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped, UInt8

from jaxtag.array_types import AnyArray, UInt8Images
from jaxtag.augment.rng import Part, draw

InverseMap = Float[Array, "2 3"]  # from (x, y, 1) of the result to (x, y) of the image
Scalar = Float[AnyArray, ""] | float


def flip(
    images: Shaped[AnyArray, "B H W C"], mirrored: Bool[AnyArray, " B"]
) -> Shaped[Array, "B H W C"]:
    """Mirrors left to right the images where `mirrored` is true."""
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def random_flip(images: UInt8Images, key: PRNGKeyArray) -> UInt8[Array, "B H W C"]:
    """Mirrors each image left to right with probability 1/2."""
    return flip(images, draw(key, images.shape[0], Part.FLIP, jax.random.bernoulli))


def alternating_flip(
    images: UInt8Images, index: Int[AnyArray, " B"], epoch: Int[AnyArray, " B"]
) -> UInt8[Array, "B H W C"]:
    """Mirrors a random half of the data in even epochs, and the other half in odd ones.

    Two epochs show each image once either way (Jordan 2024, arXiv:2404.00498, section 3.6).

    Args:
        index: of each image's record in the data set.
        epoch: that each image belongs to.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    first = jax.vmap(jax.random.bernoulli)(fold(jax.random.key(Part.FLIP), index))
    return flip(images, first ^ (epoch % 2 == 1))


def random_crop(
    images: UInt8Images, key: PRNGKeyArray, padding: int, mode: str = "constant"
) -> UInt8[Array, "B H W C"]:
    """Crops at random out of padded images, to the size that they had.

    Args:
        padding: width of the border on each side, in pixels.
        mode: content of the border, a mode of `jnp.pad`: "constant" (zeros), "reflect", "edge".
    """
    corners = draw(
        key,
        images.shape[0],
        Part.CROP,
        lambda k: jax.random.randint(k, (2,), 0, 2 * padding + 1),
    )
    return crop(images, corners, padding, mode)


def crop(
    images: UInt8Images, corners: Int[AnyArray, "B 2"], padding: int, mode: str = "constant"
) -> UInt8[Array, "B H W C"]:
    """Crops out of padded images, with the upper left at `corners` (row, column)."""
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)), mode=mode)
    size = images.shape[1:]
    return jax.vmap(lambda x, corner: jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), size))(
        padded, corners
    )


def random_affine(
    images: UInt8Images, key: PRNGKeyArray, limits: tuple[float, float, float]
) -> UInt8[Array, "B H W C"]:
    """Rotates, shears and scales each image about its center.

    As torchvision's `RandomAffine` without translation, but bilinear; black outside.

    Args:
        limits: largest rotation in degrees, shear of rows as a slope, change of scale; each uniform
            between plus and minus its limit.
    """
    parameters = draw_affine(key, images.shape[0], limits)
    return jax.vmap(lambda image, by: warp(image, inverse_affine(*by)))(images, parameters)


def draw_affine(
    key: PRNGKeyArray, count: int, limits: tuple[float, float, float]
) -> Float[Array, "{count} 3"]:
    """Arguments of `inverse_affine` for each image, uniform within the limits."""
    parameters = draw(key, count, Part.AFFINE, lambda k: jax.random.uniform(k, (3,), minval=-1.0))
    return parameters * jnp.asarray(limits)


def inverse_affine(degrees: Scalar, shear: Scalar, scale: Scalar) -> InverseMap:
    """The inverse map that rotates counterclockwise, shears rows and scales by 1 + `scale`, about
    the center."""
    sheared = jnp.eye(2).at[0, 1].set(shear)
    linear = rotate(degrees, 0, 0)[:, :2] @ sheared / (1 + scale)
    return jnp.pad(linear, ((0, 0), (0, 1)))


def warp(image: UInt8[AnyArray, "H W C"], inverse: InverseMap) -> UInt8[Array, "H W C"]:
    """As `affine`, but bilinear."""
    coordinates = _source_coordinates(inverse, *image.shape[:2])

    def interpolate(channel: UInt8[Array, "H W"]) -> Float[Array, "H W"]:
        return map_coordinates(channel.astype(jnp.float32), coordinates, order=1, mode="constant")

    return jnp.round(jax.vmap(interpolate, -1, -1)(jnp.asarray(image))).astype(image.dtype)


def affine(image: UInt8[AnyArray, "H W C"], inverse: InverseMap) -> UInt8[Array, "H W C"]:
    """`image` under an affine map: nearest neighbor, black outside.

    Args:
        inverse: from (x, y, 1) of the result to (x, y) in `image`, both measured in pixels from
            the image's center: as torchvision's `affine`, with its rounding.
    """
    height, width, _ = image.shape
    row, column = (
        jnp.round(x).astype(jnp.int32) for x in _source_coordinates(inverse, height, width)
    )
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    # One index into the pixels, whole pixels at a time.
    pixels = jnp.asarray(image).reshape(height * width, -1)
    source = pixels.at[jnp.where(inside, row * width + column, 0)].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], source, 0).astype(image.dtype)


def _source_coordinates(
    inverse: InverseMap, height: int, width: int
) -> tuple[Float[Array, "{height} {width}"], Float[Array, "{height} {width}"]]:
    """The (row, column) in the image that each pixel of the result comes from."""
    x = jnp.arange(width) - (width - 1) / 2
    y = (jnp.arange(height) - (height - 1) / 2)[:, None]
    column, row = (
        of[0] * x + of[1] * y + of[2] + (size - 1) / 2
        for of, size in zip(inverse, (width, height), strict=True)
    )
    return row, column


def shear_x(slope: Scalar, height: int, width: int) -> InverseMap:
    """The inverse map that shifts each row by `slope` times its distance from the top."""
    del width
    return _matrix(1.0, slope, slope * height / 2, 0.0, 1.0, 0.0)


def shear_y(slope: Scalar, height: int, width: int) -> InverseMap:
    """The inverse map that shifts each column by `slope` times its distance from the left."""
    del height
    return _matrix(1.0, 0.0, 0.0, slope, 1.0, slope * width / 2)


def translate_x(pixels: Scalar, height: int, width: int) -> InverseMap:
    """The inverse map that moves by whole pixels, truncated towards 0, to the right."""
    del height, width
    return _matrix(1.0, 0.0, -jnp.trunc(pixels), 0.0, 1.0, 0.0)


def translate_y(pixels: Scalar, height: int, width: int) -> InverseMap:
    """The inverse map that moves by whole pixels, truncated towards 0, down."""
    del height, width
    return _matrix(1.0, 0.0, 0.0, 0.0, 1.0, -jnp.trunc(pixels))


def rotate(degrees: Scalar, height: int, width: int) -> InverseMap:
    """The inverse map that rotates about the center, counterclockwise."""
    del height, width
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _matrix(cos, -sin, 0.0, sin, cos, 0.0)


def _matrix(*values: Scalar) -> InverseMap:
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values]).reshape(2, 3)
