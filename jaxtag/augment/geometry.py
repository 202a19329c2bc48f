"""Where pixels come from: flips, crops and affine maps of uint8 pictures [B, H, W, C]."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from jaxtag.augment.rng import Part, draw


def flip(images: jax.Array, mirrored: jax.Array) -> jax.Array:
    """Mirrors left to right those of `images` [B, H, W, C] where `mirrored` [B] is true."""
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def random_flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors each of `images` [B, H, W, C] left to right with probability 1/2."""
    return flip(images, draw(key, images.shape[0], Part.FLIP, jax.random.bernoulli))


def alternating_flip(images: jax.Array, index: jax.Array, epoch: jax.Array) -> jax.Array:
    """Mirrors a random half of the data on even passes, and the other half on odd ones.

    Two passes show each picture once either way (Jordan 2024, arXiv:2404.00498, section 3.6).

    Args:
        images: [B, H, W, C].
        index: int32 [B], which records they are.
        epoch: int32 [B], the pass that each belongs to.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    first = jax.vmap(jax.random.bernoulli)(fold(jax.random.key(Part.FLIP), index))
    return flip(images, first ^ (epoch % 2 == 1))


def random_crop(
    images: jax.Array, key: jax.Array, padding: int, mode: str = "constant"
) -> jax.Array:
    """Crops of the pictures' own size at random out of pictures with a border around them.

    Args:
        images: [B, H, W, C].
        padding: width of the border on each side, in pixels.
        mode: what is in the border, a mode of `jnp.pad`: "constant" (zeros), "reflect", "edge".
    """
    corners = draw(
        key,
        images.shape[0],
        Part.CROP,
        lambda k: jax.random.randint(k, (2,), 0, 2 * padding + 1),
    )
    return crop(images, corners, padding, mode)


def crop(images: jax.Array, corners: jax.Array, padding: int, mode: str = "constant") -> jax.Array:
    """Crops [B, H, W, C] of padded `images` [B, H, W, C], their upper left at `corners`
    int32 [B, 2] (row, column)."""
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)), mode=mode)
    size = images.shape[1:]
    return jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), size))(
        padded, corners
    )


def random_affine(
    images: jax.Array, key: jax.Array, limits: tuple[float, float, float]
) -> jax.Array:
    """Rotates, shears and scales each of `images` uint8 [B, H, W, C] about its centre.

    As torchvision's `RandomAffine` without translation, but bilinear; black outside.

    Args:
        limits: largest rotation in degrees, shear of rows as a slope, change of scale; each uniform
            between plus and minus its limit.
    """
    drawn = draw(
        key, images.shape[0], Part.AFFINE, lambda k: jax.random.uniform(k, (3,), minval=-1.0)
    )
    return jax.vmap(lambda image, by: warp(image, inverse_of(*by)))(
        images, drawn * jnp.asarray(limits)
    )


def inverse_of(degrees: jax.Array, shear: jax.Array, scale: jax.Array) -> jax.Array:
    """The inverse map [2, 3] that rotates counter-clockwise, shears rows and scales by 1 + `scale`,
    about the centre."""
    sheared = jnp.eye(2).at[0, 1].set(shear)
    linear = rotate(degrees, 0, 0)[:, :2] @ sheared / (1 + scale)
    return jnp.pad(linear, ((0, 0), (0, 1)))


def warp(image: jax.Array, inverse: jax.Array) -> jax.Array:
    """As `affine`, but bilinear: `image` uint8 [H, W, C], `inverse` float32 [2, 3]."""
    places = _places(inverse, *image.shape[:2])

    def plane(values: jax.Array) -> jax.Array:
        return map_coordinates(values.astype(jnp.float32), places, order=1, mode="constant")

    return jnp.round(jax.vmap(plane, -1, -1)(image)).astype(image.dtype)


def affine(image: jax.Array, inverse: jax.Array) -> jax.Array:
    """`image` [H, W, C] under an affine map: nearest neighbour, black outside.

    Args:
        inverse: float32 [2, 3], from (x, y, 1) of the result to (x, y) in `image`, both measured
            in pixels from the picture's centre: as torchvision's `affine`, with its rounding.
    """
    height, width, _ = image.shape
    row, column = (jnp.round(x).astype(jnp.int32) for x in _places(inverse, height, width))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    # One index into the pixels, whole pixels at a time.
    pixels = image.reshape(height * width, -1)
    found = pixels.at[jnp.where(inside, row * width + column, 0)].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], found, 0).astype(image.dtype)


def _places(inverse: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Where in the picture each pixel of the result comes from: (row, column), float32 [H, W]."""
    x = jnp.arange(width) - (width - 1) / 2
    y = (jnp.arange(height) - (height - 1) / 2)[:, None]
    column, row = (
        of[0] * x + of[1] * y + of[2] + (size - 1) / 2
        for of, size in zip(inverse, (width, height), strict=True)
    )
    return row, column


def shear_x(by: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse map [2, 3] that shifts each row by `by` times its distance from the top."""
    del width
    return _matrix(1.0, by, by * height / 2, 0.0, 1.0, 0.0)


def shear_y(by: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse map [2, 3] that shifts each column by `by` times its distance from the left."""
    del height
    return _matrix(1.0, 0.0, 0.0, by, 1.0, by * width / 2)


def translate_x(by: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse map [2, 3] that moves by whole pixels, cut towards 0, to the right."""
    del height, width
    return _matrix(1.0, 0.0, -jnp.trunc(by), 0.0, 1.0, 0.0)


def translate_y(by: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse map [2, 3] that moves by whole pixels, cut towards 0, down."""
    del height, width
    return _matrix(1.0, 0.0, 0.0, 0.0, 1.0, -jnp.trunc(by))


def rotate(degrees: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse map [2, 3] that turns about the centre, counter-clockwise."""
    del height, width
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _matrix(cos, -sin, 0.0, sin, cos, 0.0)


def _matrix(*values: jax.Array | float) -> jax.Array:
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values]).reshape(2, 3)
