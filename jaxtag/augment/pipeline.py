"""The augmentation of a batch in a training step, and the order of its operations."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, PRNGKeyArray, UInt8

from jaxtag import registry
from jaxtag.array_types import AnyArray, Inputs, UInt8Images
from jaxtag.augment import color, erasing, geometry, mixing, randaugment
from jaxtag.augment.rng import Part, draw
from jaxtag.config.schema import Config
from jaxtag.errors import UsageError

_named_call = partial(jax.named_call, name="augmentation")  # a profile tells its kernels by this

CustomOperation = Callable[[UInt8[Array, "B H W C"], Key[Array, " B"]], UInt8[Array, "B H W C"]]


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training, with everything off by default.

    `images` runs before normalization: affine, crop, flip, color jitter, RandAugment, custom
    operations, in this order. `mix` runs after it: random erasing, then mixup or CutMix.

    Attributes:
        flip: mirror with probability 1/2.
        alternating_flip: with `flip`, mirror in every second epoch instead.
        affine: largest rotation in degrees, shear as a slope, change of scale, each uniform between
            plus and minus its limit; bilinear, black outside.
        crop_padding: pixels around the image, out of which a crop of its size is drawn.
        crop_padding_mode: content of the padding: "constant" (black), "reflect" or "edge".
        randaugment: (operations, magnitude up to 30).
        color_jitter: strengths of brightness, contrast, saturation and hue, which change in
            this order; factors are uniform in [1 - s, 1 + s], the turn of the hue in [-s, s].
        random_erasing: probability.
        mixup: alpha of the Beta distribution, 0 for none.
        cutmix: the same; with both, each example gets one of them.
        mixup_switch_prob: probability of CutMix where both are on.
        custom: further operations, (images uint8 [B, H, W, C], keys [B]) -> images of the same
            shape and dtype; each example has a key of its own.

    Raises:
        UsageError: a field is out of range.
    """

    flip: bool = False
    alternating_flip: bool = False
    affine: tuple[float, float, float] | None = None
    crop_padding: int = 0
    crop_padding_mode: str = "constant"
    randaugment: tuple[int, int] | None = None
    color_jitter: tuple[float, float, float, float] | None = None
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_switch_prob: float = 0.5
    custom: tuple[CustomOperation, ...] = ()

    def __post_init__(self) -> None:
        operations, magnitude = self.randaugment or (0, 0)
        strengths = self.color_jitter or (0, 0, 0, 0)
        limits = self.affine or (0, 0, 0)
        modes = ("constant", "reflect", "edge")
        for field, in_range, expected in (
            (
                "alternating_flip",
                self.flip or not self.alternating_flip,
                "False where config.data.flip is",
            ),
            (
                "affine",
                min(limits) >= 0 and limits[2] < 1,
                "(degrees, shear, scale), at least 0 each, scale below 1",
            ),
            ("crop_padding", self.crop_padding >= 0, "at least 0"),
            ("crop_padding_mode", self.crop_padding_mode in modes, f"one of {', '.join(modes)}"),
            (
                "randaugment",
                operations >= 0 and 0 <= magnitude <= randaugment.MAX_MAGNITUDE,
                f"(operations, magnitude from 0 to {randaugment.MAX_MAGNITUDE})",
            ),
            (
                "color_jitter",
                min(strengths) >= 0 and strengths[3] <= 0.5,
                "at least 0 each, hue at most 0.5",
            ),
            ("random_erasing", 0 <= self.random_erasing <= 1, "from 0 to 1"),
            ("mixup", self.mixup >= 0, "at least 0"),
            ("cutmix", self.cutmix >= 0, "at least 0"),
            ("mixup_switch_prob", 0 <= self.mixup_switch_prob <= 1, "from 0 to 1"),
        ):
            if not in_range:
                value = getattr(self, field)
                raise UsageError(f"config.augmentation.{field} = {value!r}: must be {expected}")

    @classmethod
    def from_config(cls, config: Config) -> "Augmentation":
        """The augmentation of a run, with its custom operations imported.

        Raises:
            UsageError: a field is out of range, or a custom operation cannot be imported.
        """
        fields = asdict(config.augmentation)
        custom = tuple(
            registry.import_object(path, "config.augmentation.custom")
            for path in fields.pop("custom")
        )
        return cls(flip=config.data.flip, custom=custom, **fields)

    @_named_call
    def images(
        self,
        images: UInt8Images,
        key: PRNGKeyArray,
        batch: Mapping[str, AnyArray] | None = None,
    ) -> UInt8[AnyArray, "B H W C"]:
        """Augments the images of the global batch before normalization.

        Args:
            images: of 1 or 3 channels.
            batch: with `alternating_flip`, `index` and `epoch` of each image, int32 [B].
        """
        if self.affine:
            images = geometry.random_affine(images, key, self.affine)
        if self.crop_padding:
            images = geometry.random_crop(images, key, self.crop_padding, self.crop_padding_mode)
        if self.flip and self.alternating_flip:
            if batch is None:
                raise ValueError("alternating_flip needs the batch's index and epoch")
            images = geometry.alternating_flip(images, batch["index"], batch["epoch"])
        elif self.flip:
            images = geometry.random_flip(images, key)
        if self.color_jitter:
            sample = partial(color.draw_jitter, strengths=self.color_jitter)
            levels = draw(key, images.shape[0], Part.COLOR, sample)
            images = jax.vmap(color.jitter)(images, levels)
        if self.randaugment:
            images = randaugment.random_augment(images, key, *self.randaugment)
        for position, operation in enumerate(self.custom):
            sample = partial(jax.random.fold_in, data=position)
            keys = draw(key, images.shape[0], Part.CUSTOM, sample)
            images = _apply_custom(operation, images, keys)
        return images

    @_named_call
    def mix(
        self,
        images: Inputs,
        labels: Float[AnyArray, "B K"],
        key: PRNGKeyArray,
    ) -> tuple[Inputs, Float[AnyArray, "B K"]]:
        """Augments normalized images and their labels; a frozen backbone's outputs stay.

        Returns:
            Both in the same shapes; labels are soft where images were mixed.
        """
        if self.random_erasing:
            images = erasing.random_erasing(images, key, self.random_erasing)
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


def _apply_custom(
    operation: CustomOperation, images: UInt8Images, keys: Key[Array, " B"]
) -> UInt8Images:
    """Raises UsageError where the operation changes the shape or dtype of the images."""
    results = operation(jnp.asarray(images), keys)
    if results.shape != images.shape or results.dtype != images.dtype:
        name = getattr(operation, "__qualname__", repr(operation))
        raise UsageError(
            f"config.augmentation.custom: {name} returned {results.dtype}{list(results.shape)}, "
            f"must return {images.dtype}{list(images.shape)} like the images that it takes"
        )
    return results


@_named_call
def normalize(
    images: UInt8Images,
    mean: ArrayLike | tuple[float, ...],
    std: ArrayLike | tuple[float, ...],
    *,
    grayscale: bool = False,
) -> Float[Array, "B H W c"]:
    """(images / 255 - mean) / std, float32.

    Args:
        mean: of each channel, or one number, on the scale from 0 to 1.
        std: the same.
        grayscale: average the channels to one first.
    """
    values = jnp.asarray(images).astype(jnp.float32)
    if grayscale:
        values = values.mean(-1, keepdims=True)
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    # One multiplication and one addition a value.
    factor = 1 / (255 * std)
    return values * factor - mean / std
