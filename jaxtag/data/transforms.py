"""From an encoded picture to a square of fixed size: what happens to it on the host."""

import dataclasses
import math
from typing import ClassVar, Protocol

import cv2
import numpy as np

from jaxtag.data.decode import EncodedImage


class ImageTransform(Protocol):
    """Writes a picture into one square of a batch; small and picklable.

    `size` is the side in pixels; calling it fills `out`, uint8 [size, size, 3], drawing what is
    random from `rng` alone. `random` says whether it draws anything; else `rng` may be None.
    `whole` says that a picture of just this size becomes the square as it is.
    """

    size: int
    random: bool
    whole: bool

    def __call__(
        self, picture: EncodedImage, rng: np.random.Generator | None, out: np.ndarray
    ) -> None: ...


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A crop of random area and aspect ratio (Szegedy et al. 2015, arXiv:1409.4842, section 6).

    Drawn as torchvision's RandomResizedCrop draws it: area uniform in `area_range` (shares of
    the picture), the logarithm of width / height uniform in `ratio_range`; after ten draws that
    do not fit, the largest centred crop of an allowed ratio.
    """

    random: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    size: int
    area_range: tuple[float, float] = (0.08, 1.0)
    ratio_range: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _check_size(self.size)
        for name, low, high in (("area_range", 0.0, 1.0), ("ratio_range", 0.0, math.inf)):
            start, end = getattr(self, name)
            if not low < start <= end <= high:
                raise ValueError(f"{name} {(start, end)} is not an interval within ({low}, {high}]")

    def __call__(self, picture: EncodedImage, rng: np.random.Generator, out: np.ndarray) -> None:
        write_crop(picture, self._draw(picture.height, picture.width, rng), out)

    def _draw(self, height: int, width: int, rng: np.random.Generator):
        areas = height * width * rng.uniform(*self.area_range, size=10)
        ratios = np.exp(rng.uniform(*np.log(self.ratio_range), size=10))
        for area, ratio in zip(areas.tolist(), ratios.tolist(), strict=True):
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = rng.integers(0, (height - h + 1, width - w + 1)).tolist()
                return top, left, h, w
        low, high = self.ratio_range
        ratio = min(max(width / height, low), high)
        w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The centred square whose side is `share` of the shorter side, scaled to `size`.

    0.875 is the usual "resize to 256, crop 224".
    """

    random: ClassVar[bool] = False
    size: int
    share: float = 1.0

    @property
    def whole(self) -> bool:
        return self.share == 1

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 0 < self.share <= 1:
            raise ValueError(f"share {self.share} is not in (0, 1]")

    def __call__(self, picture: EncodedImage, rng: np.random.Generator, out: np.ndarray) -> None:
        del rng
        side = max(1, round(min(picture.height, picture.width) * self.share))
        top, left = (picture.height - side) // 2, (picture.width - side) // 2
        write_crop(picture, (top, left, side, side), out)


@dataclasses.dataclass(frozen=True)
class Resize:
    """The whole picture, scaled to a square without regard to its aspect ratio."""

    random: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    size: int

    def __post_init__(self) -> None:
        _check_size(self.size)

    def __call__(self, picture: EncodedImage, rng: np.random.Generator, out: np.ndarray) -> None:
        del rng
        write_crop(picture, (0, 0, picture.height, picture.width), out)


def write_crop(picture: EncodedImage, box: tuple[int, int, int, int], out: np.ndarray) -> None:
    """Scales `box` (top, left, height, width in the picture's pixels) into `out` [h, w, 3].

    The picture is decoded no larger than the crop needs.
    """
    top, left, height, width = box
    if out.shape[:2] == (height, width) == (picture.height, picture.width):
        out[...] = picture.pixels()  # a fifth of a small picture's time is all that follows
        return
    scale = min(1.0, max(out.shape[0] / height, out.shape[1] / width))
    pixels, factor = picture.pixels(scale, bottom=top + height), picture.factor(scale)
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
