"""Corel-5K in the two forms in which copies exist: with label lists, or with the lists of 2002.

Duygulu, Barnard, de Freitas and Forsyth, Object Recognition as Machine Translation: Learning a
Lexicon for a Fixed Image Vocabulary, ECCV 2002.
"""

import re
from collections.abc import Iterator
from typing import ClassVar

from jaxtag.datasets.base import ImageDatasetBuilder, ImageRecord, hash_fraction
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.listings import TagListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import numbered_lines, read_lines
from jaxtag.errors import UserError

# One image a line, its number and those of its words; or its words in a file beside.
_LABELS = {"train": "training_label", "test": "test_label"}
_WORDS = {"train": "document_words", "test": "test_1_document_words"}
_NUMBERS = {"train": "image_nums", "test": "test_1_image_nums"}
_PADDING = -99  # of rows with fewer words than the longest
_VALIDATION_FRACTION = 500 / 4500

# Location in a file, number of the image, its words as they are written.
_Row = tuple[str, str, list[str]]


class Corel5k(ImageDatasetBuilder):
    """Corel-5K: stock photographs with one to five of 374 words each.

    The lists make `train` and `test`; of the 4,500 images of the former the 500 whose names have
    the smallest hashes are `validation`, and of fewer as large a share.
    """

    name = "corel5k"
    HOMEPAGE = "http://kobus.ca/research/data/eccv_2002/"
    CITATION = "Duygulu et al., ECCV 2002, IV:97-112"
    NUM_LABELS = 260
    COUNTS: ClassVar = {"train": 4_000, "validation": 500, "test": 500}

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(re.match(r"(?i)corel|eccv_2002|images", name))

    @classmethod
    def list_images(cls, source: SourceFiles) -> TagListing:
        words = source.first("words")
        rows = {split: _read_rows(source, split) for split in _LABELS}
        if not words or rows["train"] is None:
            raise UserError(
                f"{source.path} has no Corel-5K (words, and {_LABELS['train']} or "
                f"{_NUMBERS['train']} with {_WORDS['train']}).\n{download_instructions(cls.name)}"
            )
        names = read_lines(source, words)
        listing = TagListing("official lists", names)
        for split, split_rows in rows.items():
            for location, number, numbers in split_rows or ():
                try:
                    tags = _tags(numbers, len(names))
                except ValueError as error:
                    listing.problems.append((location, f"malformed: {error}"))
                    continue
                path = _find_image(source, number)
                file = path.rpartition("/")[2] if path else f"{number}.jpeg"
                listing.add_tagged(source, split, path, file, tags)
        listing.finished()
        listing.splits = _hold_out(listing.splits.pop("train", [])) | listing.splits
        return listing


def _read_rows(source: SourceFiles, split: str) -> Iterator[_Row] | None:
    """The images of a split with their words; None where it is not listed."""
    labels = source.first(_LABELS[split])
    if labels:
        return _read_label_list(source, labels)
    numbers, words = source.first(_NUMBERS[split]), source.first(_WORDS[split])
    return _read_parallel_lists(source, numbers, words) if numbers and words else None


def _read_label_list(source: SourceFiles, name: str) -> Iterator[_Row]:
    for location, text in numbered_lines(source, name):
        number, *words = text.split()
        yield location, number, words


def _read_parallel_lists(source: SourceFiles, numbers: str, words: str) -> Iterator[_Row]:
    images, lines = read_lines(source, numbers), numbered_lines(source, words)
    if len(images) != len(lines):
        raise UserError(
            f"{source.where(numbers)} has {len(images):,} lines, but {source.where(words)} has "
            f"{len(lines):,}: get them again"
        )
    for number, (location, text) in zip(images, lines, strict=True):
        yield location, number, text.split()


def _tags(numbers: list[str], count: int) -> list[int]:
    """Words counted from 1 as classes counted from 0; ValueError for what is none of them."""
    words = [int(number) for number in numbers]
    words = [word for word in words if word != _PADDING]
    if not words:
        raise ValueError("it has no words")
    invalid = [word for word in words if not 1 <= word <= count]
    if invalid:
        raise ValueError(f"word {invalid[0]} is none of the {count}")
    return [word - 1 for word in words]


def _find_image(source: SourceFiles, number: str) -> str | None:
    return source.first(f"{number}.jpeg", f"{number}.jpg", f"{number}.JPG")


def _hold_out(images: list[ImageRecord]) -> dict[str, list[ImageRecord]]:
    by_hash = sorted(images, key=lambda image: hash_fraction(image.file))
    held_out = {image.file for image in by_hash[: round(_VALIDATION_FRACTION * len(images))]}
    return {
        "train": [image for image in images if image.file not in held_out],
        "validation": [image for image in images if image.file in held_out],
    }
