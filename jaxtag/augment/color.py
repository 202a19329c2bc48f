"""Colours of one uint8 picture [H, W, C], C being 1 or 3, by torchvision's definitions.

As there, each operation ends in whole levels again, rounded down. What looks at one value of one
channel at a time is a table [256, C] that `look_up` applies (`brightness`, `contrast`, `posterize`,
`solarize`, `autocontrast`, `equalize`): several such operations cost one pass over the picture.
Each has the same signature, (image, level) to table, for `randaugment`.
"""

import jax
import jax.numpy as jnp
from jax import lax

_LEVELS = 256


def look_up(image: jax.Array, table: jax.Array) -> jax.Array:
    """table[image[h, w, c], c], uint8 [H, W, C]; `table` is uint8 [256, C]."""
    channels = [
        table[:, c].at[image[..., c]].get(mode="promise_in_bounds") for c in range(image.shape[-1])
    ]
    return jnp.stack(channels, axis=-1)


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The table of `factor` times each value; 0 gives black, 1 changes nothing."""
    return _whole_levels(_identity(image) * factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The table that blends with the mean of the grey picture; 1 changes nothing."""
    grey = _grey(image).astype(jnp.int32)
    mean = grey.sum().astype(jnp.float32) / grey.size
    return _whole_levels(_blend(_identity(image), mean, factor))


def posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
    """The table that keeps the upper `bits` (a whole number) of each value's 8."""
    step = jnp.exp2(8 - bits)
    return _whole_levels(jnp.floor(_identity(image) / step) * step)


def solarize(image: jax.Array, threshold: jax.Array) -> jax.Array:
    """The table that inverts the values from `threshold` on, which is on a scale of 0 to 1."""
    values = _identity(image)
    return _whole_levels(jnp.where(values >= 255 * threshold, 255 - values, values))


def autocontrast(image: jax.Array, _: jax.Array) -> jax.Array:
    """The table that stretches each channel from its darkest and brightest values to 0 and 255.

    In integers: torchvision's float32 takes some values, the brightest too, one level lower.
    """
    darkest = image.min((0, 1)).astype(jnp.int32)
    width = image.max((0, 1)) - darkest
    values = _identity(image).astype(jnp.int32)
    stretched = (values - darkest) * 255 // jnp.maximum(width, 1)
    return _whole_levels(jnp.where(width == 0, values, stretched))


def equalize(image: jax.Array, _: jax.Array) -> jax.Array:
    """The table that makes each channel's histogram flat, by Pillow's integer arithmetic."""
    counts = _histogram(image)
    below = jnp.cumsum(counts, axis=0) - counts
    brightest = image.max((0, 1)).astype(jnp.int32)
    of_brightest = jnp.take_along_axis(counts, brightest[None], axis=0)
    step = (counts.sum(0) - of_brightest) // (_LEVELS - 1)
    table = (below + step // 2) // jnp.maximum(step, 1)
    table = jnp.where(step == 0, _identity(image).astype(jnp.int32), table)
    return jnp.clip(table, 0, 255).astype(jnp.uint8)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with the grey picture: 0 gives grey, 1 changes nothing; uint8 [H, W, C]."""
    if image.shape[-1] == 1:
        return image
    values = image.astype(jnp.float32)
    return _whole_levels(_blend(values, _grey(image)[..., None], factor))


def sharpness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with the smoothed picture: 0 smooths, 1 changes nothing; uint8 [H, W, C].

    Smoothed by 3x3 weights of 1/13, the middle 5/13; pixels at the edge stay as they are.
    """
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    values = image.astype(jnp.int32)
    rows = values[:-2] + values[1:-1] + values[2:]
    squares = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    middle = values[1:-1, 1:-1]
    smooth = (2 * (squares + 4 * middle) + 13) // 26  # to the nearest
    difference = (smooth - middle).astype(jnp.float32)
    inner = _whole_levels(middle + (1 - factor) * difference)
    return lax.dynamic_update_slice(image, inner, (1, 1, 0))


def hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Hue turned by `turn` of the circle, in [-0.5, 0.5]; uint8 [H, W, C]."""
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

    def channel(offset: float) -> jax.Array:
        # How far it is below the largest, in units of chroma: 0 for two sixths of the circle,
        # 1 for two, between them linear.
        place = sixth + (6 * turn + offset)
        place -= 6 * jnp.floor(place / 6)
        short = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
        return _whole_levels((value - short * chroma) * 255.999)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


def jitter(image: jax.Array, levels: jax.Array) -> jax.Array:
    """Brightness, contrast, saturation and hue, in this order, by `levels` float32 [4]."""
    for change, level in zip((brightness, contrast), levels[:2], strict=True):
        image = look_up(image, change(image, level))
    return hue(saturation(image, levels[2]), levels[3])


def draw_jitter(key: jax.Array, strengths: tuple[float, float, float, float]) -> jax.Array:
    """Levels [4] for `jitter`: factors uniform in [max(0, 1 - s), 1 + s], hue in [-s, s]."""
    low = jnp.asarray([max(0.0, 1 - s) for s in strengths[:3]] + [-strengths[3]], jnp.float32)
    high = jnp.asarray([1 + s for s in strengths[:3]] + [strengths[3]], jnp.float32)
    return jax.random.uniform(key, (4,), minval=low, maxval=high)


def _identity(image: jax.Array) -> jax.Array:
    """The table [256, C], float32, that changes nothing."""
    return jnp.broadcast_to(
        jnp.arange(_LEVELS, dtype=jnp.float32)[:, None], (_LEVELS, image.shape[-1])
    )


def _whole_levels(values: jax.Array) -> jax.Array:
    return jnp.clip(values, 0, 255).astype(jnp.uint8)


def _blend(values: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    return factor * values + (1 - factor) * other


def _grey(image: jax.Array) -> jax.Array:
    """Luma in whole levels, float32 [H, W]."""
    if image.shape[-1] == 1:
        return image[..., 0].astype(jnp.float32)
    values = image.astype(jnp.float32)
    luma = 0.2989 * values[..., 0] + 0.587 * values[..., 1] + 0.114 * values[..., 2]
    return jnp.floor(luma)


def _histogram(image: jax.Array) -> jax.Array:
    """How often each value comes in each channel, int32 [256, C]."""
    channels = image.shape[-1]
    places = image.astype(jnp.int32) * channels + jnp.arange(channels)
    counts = jnp.zeros(_LEVELS * channels, jnp.int32).at[places.ravel()].add(1)
    return counts.reshape(_LEVELS, channels)
