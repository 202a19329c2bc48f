"""Pictures with class labels: what their records hold, and how they are listed."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxtag.datasets.base import ImageRecord, Listing
from jaxtag.errors import UserError


class LabelListing(Listing):
    """Records hold class labels: numbers, with their names in the features.

    Args:
      classes: feature, such as `label`, -> names of its classes in the order of their numbers.

    Raises:
      UserError: two classes have the same name.
    """

    def __init__(self, variant: str, classes: Mapping[str, Sequence[str]]):
        features = {feature: class_label(feature, names) for feature, names in classes.items()}
        super().__init__(features, variant)

    def add_pixels(self, split: str, pixels: np.ndarray, labels: Mapping[str, np.ndarray]) -> None:
        """Adds the pictures of a whole split, named by their number, to be stored as PNG.

        Args:
          pixels: uint8, grey [N, H, W] or RGB [N, H, W, 3].
          labels: feature -> the class of each picture, integers [N].
        """
        fields = [
            dict(zip(labels, (int(n) for n in numbers), strict=True))
            for numbers in zip(*labels.values(), strict=True)
        ]
        for number, (picture, own) in enumerate(zip(pixels, fields, strict=True)):
            load = functools.partial(encode_png, picture)
            file = f"{split}/{number:05d}.png"
            self.add(split, ImageRecord(file, load, own, made=True), picture.nbytes)


def class_label(feature: str, names: Sequence[str]) -> tfds.features.ClassLabel:
    """Numbers with names; UserError where there are none, or one of them occurs twice."""
    if not names:
        raise UserError(f"there are no names of {feature}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"the class {twice[0]!r} occurs twice in the names of {feature}")
    return tfds.features.ClassLabel(names=list(names))


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] grey or [H, W, 3] RGB as PNG, lossless."""
    _, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])
    return data.tobytes()
