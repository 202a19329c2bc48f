"""What happens to a batch in a training step, in which order."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxtag.augment import color, erasing, geometry, mixing, randaugment
from jaxtag.augment.rng import Part, draw
from jaxtag.errors import UsageError

_named = partial(jax.named_call, name="augmentation")  # so that a profile can tell its kernels


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training, with everything off by default.

    `images` comes before normalisation: affine, crop, flip, colour jitter, RandAugment, in this
    order.
    `mix` comes after it: random erasing, then mixup or CutMix. Raises UsageError where a field is
    out of range.

    Fields:
        flip: mirror with probability 1/2.
        alternate: with `flip`, mirror on every second pass over the data instead.
        affine: largest rotation in degrees, shear as a slope, change of scale, each uniform between
            plus and minus its limit; bilinear, black outside.
        crop_padding: pixels around the picture, out of which a crop of its size is drawn.
        crop_padding_mode: what is in them: "constant" (black), "reflect" or "edge".
        randaugment: (operations, magnitude up to 30).
        color_jitter: strengths of brightness, contrast, saturation and hue, which change in
            this order; factors are uniform in [1 - s, 1 + s], the hue's turn in [-s, s].
        erasing: probability.
        mixup, cutmix: alpha of their Beta distribution, 0 for none; with both, each example gets
            one of them, CutMix with the probability `mixup_switch_prob`.
    """

    flip: bool = False
    alternate: bool = False
    affine: tuple[float, float, float] | None = None
    crop_padding: int = 0
    crop_padding_mode: str = "constant"
    randaugment: tuple[int, int] | None = None
    color_jitter: tuple[float, float, float, float] | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_switch_prob: float = 0.5

    def __post_init__(self) -> None:
        operations, magnitude = self.randaugment or (0, 0)
        strengths = self.color_jitter or (0, 0, 0, 0)
        limits = self.affine or (0, 0, 0)
        borders = ("constant", "reflect", "edge")
        for field, fits, wanted in (
            ("alternate", self.flip or not self.alternate, "False where config.data.flip is"),
            (
                "affine",
                min(limits) >= 0 and limits[2] < 1,
                "(degrees, shear, scale), at least 0 each, scale below 1",
            ),
            ("crop_padding", self.crop_padding >= 0, "at least 0"),
            (
                "crop_padding_mode",
                self.crop_padding_mode in borders,
                f"one of {', '.join(borders)}",
            ),
            (
                "randaugment",
                operations >= 0 and 0 <= magnitude <= randaugment.MAXIMUM,
                f"(operations, magnitude from 0 to {randaugment.MAXIMUM})",
            ),
            (
                "color_jitter",
                min(strengths) >= 0 and strengths[3] <= 0.5,
                "at least 0 each, hue at most 0.5",
            ),
            ("erasing", 0 <= self.erasing <= 1, "from 0 to 1"),
            ("mixup", self.mixup >= 0, "at least 0"),
            ("cutmix", self.cutmix >= 0, "at least 0"),
            ("mixup_switch_prob", 0 <= self.mixup_switch_prob <= 1, "from 0 to 1"),
        ):
            if not fits:
                value = getattr(self, field)
                raise UsageError(f"config.augmentation.{field} = {value!r}: must be {wanted}")

    @_named
    def images(
        self, images: jax.Array, key: jax.Array, batch: Mapping[str, jax.Array] | None = None
    ) -> jax.Array:
        """Pictures before normalisation, uint8 [B, H, W, C], the global batch; C is 1 or 3.

        `batch` says which pictures they are (`index` and `epoch` int32 [B]), for `alternate`.
        """
        if self.affine:
            images = geometry.random_affine(images, key, self.affine)
        if self.crop_padding:
            images = geometry.random_crop(images, key, self.crop_padding, self.crop_padding_mode)
        if self.flip and self.alternate:
            images = geometry.alternating_flip(images, batch["index"], batch["epoch"])
        elif self.flip:
            images = geometry.random_flip(images, key)
        if self.color_jitter:
            levels = draw(
                key,
                images.shape[0],
                Part.COLOUR,
                lambda k: color.draw_jitter(k, self.color_jitter),
            )
            images = jax.vmap(color.jitter)(images, levels)
        if self.randaugment:
            images = randaugment.random_augment(images, key, *self.randaugment)
        return images

    @_named
    def mix(
        self, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Normalised pictures, float [B, H, W, C], and their labels, float32 [B, K].

        Returns both in the same shapes; labels are soft where pictures were mixed.
        """
        if self.erasing:
            images = erasing.random_erasing(images, key, self.erasing)
        if self.mixup or self.cutmix:
            images, labels = mixing.random_mix(
                images,
                labels,
                key,
                mixup=self.mixup,
                cutmix=self.cutmix,
                mixup_switch_prob=self.mixup_switch_prob,
            )
        return images, labels


@_named
def normalize(
    images: jax.Array,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    grey: bool = False,
) -> jax.Array:
    """(images / 255 - mean) / std; uint8 [B, H, W, C] to float32, with `grey` [B, H, W, 1].

    `mean` and `std` are a channel's, [C] or one number, on the scale from 0 to 1. Grey is the mean
    of the channels.
    """
    images = images.astype(jnp.float32)
    if grey:
        images = images.mean(-1, keepdims=True)
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    # One multiplication and one addition a value.
    factor = 1 / (255 * std)
    return images * factor - mean / std
