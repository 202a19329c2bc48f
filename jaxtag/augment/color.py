"""Color operations on one uint8 image [H, W, C], C being 1 or 3, by torchvision's definitions.

As there, each operation ends in whole levels again, rounded down. An operation on one value of one
channel at a time is a table [256, C] that `look_up` applies (`brightness`, `contrast`, `posterize`,
`solarize`, `autocontrast`, `equalize`): several such operations cost one pass over the image.
Each has the same signature, (image, level) to table, for `randaugment`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from jaxtag.array_types import AnyArray

_LEVELS = 256

Image = UInt8[AnyArray, "H W C"]
Level = Float[AnyArray, ""]
Table = UInt8[Array, "256 C"]


def look_up(image: Image, table: Table) -> UInt8[Array, "H W C"]:
    """Maps each value by its channel's table: `table[image[h, w, c], c]`."""
    channels = [
        table[:, c].at[image[..., c]].get(mode="promise_in_bounds") for c in range(image.shape[-1])
    ]
    return jnp.stack(channels, axis=-1)


def brightness(image: Image, factor: Level) -> Table:
    """The table of `factor` times each value; 0 gives black, 1 changes nothing."""
    return _quantize(_identity(image) * factor)


def contrast(image: Image, factor: Level) -> Table:
    """The table that blends with the mean of the gray image; 1 changes nothing."""
    gray = _gray(image).astype(jnp.int32)
    mean = gray.sum().astype(jnp.float32) / gray.size
    return _quantize(_blend(_identity(image), mean, factor))


def posterize(image: Image, bits: Level) -> Table:
    """The table that keeps the upper `bits` (a whole number) of each value's 8."""
    step = jnp.exp2(8 - bits)
    return _quantize(jnp.floor(_identity(image) / step) * step)


def solarize(image: Image, threshold: Level) -> Table:
    """The table that inverts the values from `threshold` on, which is on a scale of 0 to 1."""
    values = _identity(image)
    return _quantize(jnp.where(values >= 255 * threshold, 255 - values, values))


def autocontrast(image: Image, _: Level) -> Table:
    """The table that stretches each channel from its darkest and brightest values to 0 and 255.

    In integers: torchvision's float32 takes some values, the brightest too, one level lower.
    """
    darkest = image.min((0, 1)).astype(jnp.int32)
    width = image.max((0, 1)) - darkest
    values = _identity(image).astype(jnp.int32)
    stretched = (values - darkest) * 255 // jnp.maximum(width, 1)
    return _quantize(jnp.where(width == 0, values, stretched))


def equalize(image: Image, _: Level) -> Table:
    """The table that flattens each channel's histogram, by Pillow's integer arithmetic."""
    counts = _histogram(image)
    below = jnp.cumsum(counts, axis=0) - counts
    brightest = image.max((0, 1)).astype(jnp.int32)
    brightest_counts = jnp.take_along_axis(counts, brightest[None], axis=0)
    step = (counts.sum(0) - brightest_counts) // (_LEVELS - 1)
    table = (below + step // 2) // jnp.maximum(step, 1)
    table = jnp.where(step == 0, _identity(image).astype(jnp.int32), table)
    return jnp.clip(table, 0, 255).astype(jnp.uint8)


def saturation(image: Image, factor: Level) -> UInt8[AnyArray, "H W C"]:
    """Blends with the gray image: 0 gives gray, 1 changes nothing."""
    if image.shape[-1] == 1:
        return image
    values = jnp.asarray(image).astype(jnp.float32)
    return _quantize(_blend(values, _gray(image)[..., None], factor))


def sharpness(image: Image, factor: Level) -> UInt8[AnyArray, "H W C"]:
    """Blends with the smoothed image: 0 smooths, 1 changes nothing.

    Smoothed by 3x3 weights of 1/13, the center 5/13; pixels at the edge stay as they are.
    """
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    values = image.astype(jnp.int32)
    rows = values[:-2] + values[1:-1] + values[2:]
    squares = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    center = values[1:-1, 1:-1]
    smooth = (2 * (squares + 4 * center) + 13) // 26  # to the nearest
    difference = (smooth - center).astype(jnp.float32)
    inner = _quantize(center + (1 - factor) * difference)
    return lax.dynamic_update_slice(image, inner, (1, 1, 0))


def hue(image: Image, turn: Level) -> UInt8[AnyArray, "H W C"]:
    """Turns the hue by `turn` of the circle, in [-0.5, 0.5]."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., c].astype(jnp.float32) / 255 for c in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma == 0, 1, chroma)
    sixth = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )

    def channel(offset: float) -> UInt8[Array, "H W"]:
        # Its distance below the largest channel, in units of chroma: 0 for two sixths of the
        # circle, 1 for two, between them linear.
        angle = sixth + (6 * turn + offset)
        angle -= 6 * jnp.floor(angle / 6)
        distance = jnp.clip(jnp.minimum(angle, 4 - angle), 0, 1)
        return _quantize((value - distance * chroma) * 255.999)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def jitter(image: Image, levels: Float[AnyArray, "4"]) -> UInt8[AnyArray, "H W C"]:
    """Changes brightness, contrast, saturation and hue, in this order, by `levels`."""
    for operation, level in zip((brightness, contrast), levels[:2], strict=True):
        image = look_up(image, operation(image, level))
    return hue(saturation(image, levels[2]), levels[3])


def draw_jitter(
    key: PRNGKeyArray, strengths: tuple[float, float, float, float]
) -> Float[Array, "4"]:
    """Levels for `jitter`: factors uniform in [max(0, 1 - s), 1 + s], hue in [-s, s]."""
    low = jnp.asarray([max(0.0, 1 - s) for s in strengths[:3]] + [-strengths[3]], jnp.float32)
    high = jnp.asarray([1 + s for s in strengths[:3]] + [strengths[3]], jnp.float32)
    return jax.random.uniform(key, (4,), minval=low, maxval=high)


def _identity(image: Image) -> Float[Array, "256 C"]:
    """The table that changes nothing."""
    return jnp.broadcast_to(
        jnp.arange(_LEVELS, dtype=jnp.float32)[:, None], (_LEVELS, image.shape[-1])
    )


def _quantize(values: AnyArray) -> Array:
    """Rounds down to whole levels, uint8."""
    return jnp.clip(values, 0, 255).astype(jnp.uint8)


def _blend(values: Array, other: Array, factor: AnyArray) -> AnyArray:
    return factor * values + (1 - factor) * other


def _gray(image: Image) -> Float[Array, "H W"]:
    """Luma in whole levels."""
    if image.shape[-1] == 1:
        return jnp.asarray(image)[..., 0].astype(jnp.float32)
    values = jnp.asarray(image).astype(jnp.float32)
    luma = 0.2989 * values[..., 0] + 0.587 * values[..., 1] + 0.114 * values[..., 2]
    return jnp.floor(luma)


def _histogram(image: Image) -> Int[Array, "256 C"]:
    """The number of times each value occurs in each channel."""
    channels = image.shape[-1]
    bins = image.astype(jnp.int32) * channels + jnp.arange(channels)
    counts = jnp.zeros(_LEVELS * channels, jnp.int32).at[bins.ravel()].add(1)
    return counts.reshape(_LEVELS, channels)
