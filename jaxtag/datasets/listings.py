"""Listings of images with captions, class labels or tags: the fields of their records."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxtag.data.text import clean_name, clean_text
from jaxtag.datasets.base import ImageRecord, Listing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError


class CaptionListing(Listing):
    """Records hold `image_id` (text) and `captions` (texts, possibly none).

    Args:
        variant: The form of the data set that was found.
        extra: Names of further text fields.
    """

    def __init__(self, variant: str, extra: Iterable[str] = ()):
        features = {
            "image_id": tfds.features.Text(),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            **{name: tfds.features.Text() for name in extra},
        }
        super().__init__(features, variant)

    def add_captioned(
        self,
        source: SourceFiles,
        split: str,
        path: str | None,
        file: str,
        image_id: str,
        captions: Iterable[str],
        captions_required: bool = True,
    ) -> None:
        """Adds the image at `path` of the source, None where it is missing.

        Args:
            captions_required: An image without captions is a problem and is left out.
        """
        cleaned = clean_captions(captions)
        if captions_required and not cleaned:
            if self._is_new(split, file):
                self.problems.append((file, "it has no caption"))
            return
        fields = {"image_id": image_id, "captions": cleaned}
        self.add_stored(source, split, path, file, fields)


class LabelListing(Listing):
    """Records hold class labels: numbers, with their names in the features.

    Args:
        variant: The form of the data set that was found.
        classes: Feature, such as `label`, -> names of its classes in the order of their numbers.

    Raises:
        UserError: Two classes have the same name.
    """

    def __init__(self, variant: str, classes: Mapping[str, Sequence[str]]):
        features = {feature: _class_label(feature, names) for feature, names in classes.items()}
        super().__init__(features, variant)

    def add_pixels(self, split: str, pixels: np.ndarray, labels: Mapping[str, np.ndarray]) -> None:
        """Adds the images of a split, named by their number, to be stored as PNG.

        Args:
            pixels: uint8, gray [N, H, W] or RGB [N, H, W, 3].
            labels: Feature -> the class of each image, integers [N].
        """
        rows = zip(*labels.values(), strict=True)
        for number, (image, row) in enumerate(zip(pixels, rows, strict=True)):
            load = functools.partial(encode_png, image)
            fields = dict(zip(labels, map(int, row), strict=True))
            file = f"{split}/{number:05d}.png"
            self.add(split, ImageRecord(file, load, fields, generated=True), image.nbytes)


class TagListing(Listing):
    """Records hold the tags of an image as numbers, with their names in the features.

    Fields: `tags` that are present, `unknown_tags` that were not annotated, both ascending and
    possibly none, and `group` (text) of images that belong together, "" where there is none. Tags
    that are in neither are absent from the image.

    Args:
        variant: The form of the data set that was found.
        names: Of all tags, in the order of their numbers.
        has_label: Each image has one tag, which is its class too: the field `label`.

    Raises:
        UserError: Two tags have the same name, or there are none.
    """

    def __init__(self, variant: str, names: Sequence[str], has_label: bool = False):
        features = {
            **({"label": _class_label("label", names)} if has_label else {}),
            "tags": tfds.features.Sequence(_class_label("tags", names)),
            "unknown_tags": tfds.features.Sequence(_class_label("unknown_tags", names)),
            "group": tfds.features.Text(),
        }
        super().__init__(features, variant)

    def add_tagged(
        self,
        source: SourceFiles,
        split: str,
        path: str | None,
        file: str,
        tags: Iterable[int],
        unknown: Iterable[int] = (),
        group: str = "",
    ) -> None:
        """Adds the image at `path` of the source, None where it is missing."""
        present = set(tags)
        fields = {
            **({"label": min(present)} if "label" in self.features else {}),
            "tags": sorted(present),
            "unknown_tags": sorted(set(unknown) - present),
            "group": group,
        }
        self.add_stored(source, split, path, file, fields)


def clean_captions(captions: Iterable[str]) -> list[str]:
    """Puts captions on one line each, in Unicode's form NFC, and drops the blank ones."""
    cleaned = (" ".join(clean_text(caption).split()) for caption in captions)
    return [caption for caption in cleaned if caption]


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W] gray or [H, W, 3] RGB as PNG, lossless."""
    _, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])
    return data.tobytes()


def _class_label(feature: str, names: Sequence[str]) -> tfds.features.ClassLabel:
    """Numbers with names, clean ones: UserError where one is empty, or occurs twice."""
    if not names:
        raise UserError(f"there are no names of {feature}")
    names = [clean_name(name) for name in names]
    if "" in names:
        raise UserError(f"the name of number {names.index('')} of {feature} is empty")
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise UserError(f"the class {duplicates[0]!r} occurs twice in the names of {feature}")
    return tfds.features.ClassLabel(names=list(names))
