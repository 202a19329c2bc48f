"""Corel-5K in the two forms that go around: pictures with label lists, or the lists of 2002.

Duygulu, Barnard, de Freitas and Forsyth, Object Recognition as Machine Translation: Learning a
Lexicon for a Fixed Image Vocabulary, ECCV 2002.
"""

import re
from collections.abc import Iterator
from typing import ClassVar

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import ImageDatasetBuilder, ImageRecord, hash_fraction
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.tagged import TagListing, numbered_lines, read_lines
from jaxtag.errors import UserError

# One picture a line, its number and those of its words; or its words in a file beside.
_LABELS = {"train": "training_label", "test": "test_label"}
_WORDS = {"train": "document_words", "test": "test_1_document_words"}
_NUMBERS = {"train": "image_nums", "test": "test_1_image_nums"}
_PADDING = -99  # of rows with fewer words than the longest
_HELD_OUT = 500 / 4500

# Place in a file, number of the picture, its words as they are written.
_Row = tuple[str, str, list[str]]


class Corel5k(ImageDatasetBuilder):
    """Corel-5K: stock photographs with one to five of 374 words each.

    The lists make `train` and `test`; of the 4,500 pictures of the former the 500 whose names have
    the smallest hashes are `validation`, and of fewer as large a share.
    """

    name = "corel5k"
    HOMEPAGE = "http://kobus.ca/research/data/eccv_2002/"
    CITATION = "Duygulu et al., ECCV 2002, IV:97-112"
    COUNTS: ClassVar = {"train": 4_000, "validation": 500, "test": 500}

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(re.match(r"(?i)corel|eccv_2002|images", archive))

    @classmethod
    def list_pictures(cls, store: Store) -> TagListing:
        words = store.find("words")
        rows = {split: _rows(store, split) for split in _LABELS}
        if not words or rows["train"] is None:
            raise UserError(
                f"{store.path} has no Corel-5K (words, and {_LABELS['train']} or "
                f"{_NUMBERS['train']} with {_WORDS['train']}).\n{download_instructions(cls.name)}"
            )
        names = read_lines(store, words[0])
        listing = TagListing("official lists", names)
        for split, found in rows.items():
            for at, number, numbers in found or ():
                try:
                    tags = _tags(numbers, len(names))
                except ValueError as error:
                    listing.problems.append((at, f"malformed: {error}"))
                    continue
                path = _picture(store, number)
                file = path.rpartition("/")[2] if path else f"{number}.jpeg"
                listing.add_tagged(store, split, path, file, tags)
        listing.finished()
        listing.splits = _hold_out(listing.splits.pop("train", [])) | listing.splits
        return listing


def _rows(store: Store, split: str) -> Iterator[_Row] | None:
    """The pictures of a split with their words; None where it is not listed."""
    labels = store.find(_LABELS[split])
    if labels:
        return _labelled(store, labels[0])
    numbers, words = store.find(_NUMBERS[split]), store.find(_WORDS[split])
    return _side_by_side(store, numbers[0], words[0]) if numbers and words else None


def _labelled(store: Store, name: str) -> Iterator[_Row]:
    for at, text in numbered_lines(store, name):
        number, *words = text.split()
        yield at, number, words


def _side_by_side(store: Store, numbers: str, words: str) -> Iterator[_Row]:
    pictures, lines = read_lines(store, numbers), numbered_lines(store, words)
    if len(pictures) != len(lines):
        raise UserError(
            f"{store.where(numbers)} has {len(pictures):,} lines, but {store.where(words)} has "
            f"{len(lines):,}: get them again"
        )
    for number, (at, text) in zip(pictures, lines, strict=True):
        yield at, number, text.split()


def _tags(numbers: list[str], count: int) -> list[int]:
    """Words counted from 1 as classes counted from 0; ValueError for what is none of them."""
    words = [int(number) for number in numbers]
    words = [word for word in words if word != _PADDING]
    if not words:
        raise ValueError("it has no words")
    beyond = [word for word in words if not 1 <= word <= count]
    if beyond:
        raise ValueError(f"word {beyond[0]} is none of the {count}")
    return [word - 1 for word in words]


def _picture(store: Store, number: str) -> str | None:
    names = (f"{number}.jpeg", f"{number}.jpg", f"{number}.JPG")
    return next((found[0] for name in names if (found := store.find(name))), None)


def _hold_out(pictures: list[ImageRecord]) -> dict[str, list[ImageRecord]]:
    by_hash = sorted(pictures, key=lambda picture: hash_fraction(picture.file))
    held = {picture.file for picture in by_hash[: round(_HELD_OUT * len(pictures))]}
    return {
        "train": [picture for picture in pictures if picture.file not in held],
        "validation": [picture for picture in pictures if picture.file in held],
    }
