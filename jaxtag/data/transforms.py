"""Transforms on the host: from an image to a square of fixed size, uint8 [S, S, 3]."""

import math
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from jaxtag.data.image_reader import ImageReader

Box = tuple[int, int, int, int]  # top, left, height, width


class ImageTransform(Protocol):
    """Writes an image into one square of a batch; small and picklable.

    Attributes:
        size: The side S of the square in pixels.
        random: Whether it draws from the generator, which otherwise may be None.
        full_image: Whether an image of just this size becomes the square as it is.
    """

    @property
    def size(self) -> int: ...

    @property
    def random(self) -> bool: ...

    @property
    def full_image(self) -> bool: ...

    def __call__(
        self, image: ImageReader, rng: np.random.Generator | None, out: np.ndarray
    ) -> None:
        """Fills `out`, uint8 [S, S, 3], drawing what is random from `rng` alone."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """A crop of random area and aspect ratio (Szegedy et al. 2015, arXiv:1409.4842, section 6).

    Drawn as torchvision's RandomResizedCrop draws it: area uniform in `scale` (shares of the
    image's), the logarithm of width / height uniform in `ratio`; after ten draws that do not fit,
    the largest centered crop of an allowed ratio.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    @property
    def random(self) -> bool:
        """True: each call draws a box."""
        return True

    @property
    def full_image(self) -> bool:
        """False: the box is drawn."""
        return False

    def __post_init__(self) -> None:
        _check_size(self.size)
        for name, low, high in (("scale", 0.0, 1.0), ("ratio", 0.0, math.inf)):
            start, end = getattr(self, name)
            if not low < start <= end <= high:
                raise ValueError(f"{name} {(start, end)} is not an interval within ({low}, {high}]")

    def __call__(
        self, image: ImageReader, rng: np.random.Generator | None, out: np.ndarray
    ) -> None:
        """Writes a random crop."""
        assert rng is not None
        write_crop(image, self._draw(image.height, image.width, rng), out)

    def _draw(self, height: int, width: int, rng: np.random.Generator) -> Box:
        areas = height * width * rng.uniform(*self.scale, size=10)
        low, high = np.log(self.ratio).tolist()
        ratios = np.exp(rng.uniform(low, high, size=10))
        for area, ratio in zip(areas.tolist(), ratios.tolist(), strict=True):
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = rng.integers(0, (height - h + 1, width - w + 1)).tolist()
                return top, left, h, w
        low, high = self.ratio
        ratio = min(max(width / height, low), high)
        w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class CenterCrop:
    """The centered square whose side is `crop_pct` of the shorter side, scaled to `size`.

    A `crop_pct` of 0.875 is the usual "resize to 256, crop 224".
    """

    size: int
    crop_pct: float = 1.0

    @property
    def random(self) -> bool:
        """False: nothing is drawn."""
        return False

    @property
    def full_image(self) -> bool:
        """Whether nothing is cut off a square image."""
        return self.crop_pct == 1

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct {self.crop_pct} is not in (0, 1]")

    def __call__(
        self, image: ImageReader, rng: np.random.Generator | None, out: np.ndarray
    ) -> None:
        """Writes the crop."""
        del rng
        side = max(1, round(min(image.height, image.width) * self.crop_pct))
        top, left = (image.height - side) // 2, (image.width - side) // 2
        write_crop(image, (top, left, side, side), out)


@dataclass(frozen=True)
class Resize:
    """The full image, scaled to a square without regard to its aspect ratio."""

    size: int

    @property
    def random(self) -> bool:
        """False: nothing is drawn."""
        return False

    @property
    def full_image(self) -> bool:
        """True: nothing is cut off."""
        return True

    def __post_init__(self) -> None:
        _check_size(self.size)

    def __call__(
        self, image: ImageReader, rng: np.random.Generator | None, out: np.ndarray
    ) -> None:
        """Writes the resized image."""
        del rng
        write_crop(image, (0, 0, image.height, image.width), out)


FITS = ("crop", "squash", "pad")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
INTERPOLATIONS = tuple(_FILTERS)


@dataclass(frozen=True)
class PillowResize:
    """A resize that equals Pillow's bit by bit, as published models were evaluated with it.

    It decodes the whole image and weighs all pixels: several times the work of `CenterCrop`.

    Attributes:
        crop_pct: The image is resized to floor(size / crop_pct), then its center is cropped.
        fit: "crop" (the shorter side has that size), "squash" (both sides), or "pad" (both sides of
            the image on a white square).
        interpolation: One of `INTERPOLATIONS`.
    """

    size: int
    crop_pct: float = 1.0
    fit: str = "crop"
    interpolation: str = "bicubic"

    @property
    def random(self) -> bool:
        """False: nothing is drawn."""
        return False

    @property
    def full_image(self) -> bool:
        """Whether nothing is cut off a square image."""
        return self.crop_pct == 1

    def __post_init__(self) -> None:
        CenterCrop(self.size, self.crop_pct)  # checks both
        for name, choices in (("fit", FITS), ("interpolation", INTERPOLATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {self}")

    def __call__(
        self, image: ImageReader, rng: np.random.Generator | None, out: np.ndarray
    ) -> None:
        """Writes the resized image."""
        del rng
        pixels = image.pixels()
        if self.fit == "pad":
            pixels = _pad_to_square(pixels)
        size = math.floor(self.size / self.crop_pct + 1e-6)
        height, width = pixels.shape[:2]
        if self.fit == "crop":
            shorter = min(height, width)
            height, width = (int(size * side / shorter) for side in (height, width))
        else:
            height = width = size
        resized = Image.fromarray(pixels).resize((width, height), _FILTERS[self.interpolation])
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)  # torchvision's
        out[...] = np.asarray(resized)[top : top + self.size, left : left + self.size]


def evaluation_transform(
    size: int, crop_pct: float | None, fit: str = "crop", interpolation: str = "bilinear"
) -> ImageTransform:
    """The transform of evaluation: the fast ones of OpenCV where they do, else Pillow's.

    Args:
        size: Pixels, both sides.
        crop_pct: As of `PillowResize`; None for the whole image, squashed.
        fit: As of `PillowResize`.
        interpolation: "bilinear" or "bicubic"; the former need not equal Pillow's to the bit.
    """
    if crop_pct is None:
        crop_pct, fit = 1.0, "pad" if fit == "pad" else "squash"
    if interpolation == "bilinear" and fit == "crop":
        return CenterCrop(size, crop_pct)
    if interpolation == "bilinear" and fit == "squash" and crop_pct == 1:
        return Resize(size)
    return PillowResize(size, crop_pct, fit, interpolation)


def _pad_to_square(pixels: np.ndarray) -> np.ndarray:
    """The image in the middle of a white square of its longer side."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def write_crop(image: ImageReader, box: Box, out: np.ndarray) -> None:
    """Scales `box` (in the image's pixels) into `out`, uint8 [h, w, 3].

    The image is decoded no larger than the crop needs.
    """
    top, left, height, width = box
    if out.shape[:2] == (height, width) == (image.height, image.width):
        out[...] = image.pixels()  # all that follows takes a fifth of a small image's time
        return
    scale = min(1.0, max(out.shape[0] / height, out.shape[1] / width))
    pixels, factor = image.pixels(scale, bottom=top + height), image.factor(scale)
    y = min(round(top * factor), pixels.shape[0] - 1)
    x = min(round(left * factor), pixels.shape[1] - 1)
    crop = pixels[y : y + max(1, round(height * factor)), x : x + max(1, round(width * factor))]
    # Linear interpolation reads 2 x 2 pixels and so is right down to half the size, as far as
    # reduced decoding leaves to go; averaging all pixels costs several times as much.
    shrinks = max(crop.shape[0] / out.shape[0], crop.shape[1] / out.shape[1])
    method = cv2.INTER_AREA if shrinks > 2 else cv2.INTER_LINEAR
    if crop.shape == out.shape:
        out[...] = crop
    else:
        cv2.resize(crop, out.shape[1::-1], dst=out, interpolation=method)


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size {size} is not positive")
