"""MIRFlickr-25K from its two zips, packed or not.

Huiskes and Lew, The MIR Flickr Retrieval Evaluation, MIR 2008.
"""

import re
from collections import defaultdict
from typing import ClassVar

from jaxtag.datasets.base import ImageDatasetBuilder, hash_fraction
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.listings import TagListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import numbered_lines
from jaxtag.errors import UserError

_POTENTIAL = (
    "animals",
    "baby",
    "bird",
    "car",
    "clouds",
    "dog",
    "female",
    "flower",
    "food",
    "indoor",
    "lake",
    "male",
    "night",
    "people",
    "plant_life",
    "portrait",
    "river",
    "sea",
    "sky",
    "structures",
    "sunset",
    "transport",
    "tree",
    "water",
)
_RELEVANT = (
    "baby",
    "bird",
    "car",
    "clouds",
    "dog",
    "female",
    "flower",
    "male",
    "night",
    "people",
    "portrait",
    "river",
    "sea",
    "tree",
)
_TAGS = (*_POTENTIAL, *(f"{name}_r1" for name in _RELEVANT))
_IMAGE = re.compile(r"(^|/)im(?P<number>\d+)\.jpe?g$", re.IGNORECASE)


class Mirflickr25k(ImageDatasetBuilder):
    """MIRFlickr-25K: photographs from Flickr, tagged with 38 annotations by people.

    The first 24 tags say that a topic is to be seen at all ("potential"), the 14 that end in `_r1`,
    as their files do, that it is what the image is about ("relevant"). There is no official
    split: by a hash of the file name a tenth is `test`, a tenth `validation` and the rest `train`.
    """

    name = "mirflickr25k"
    HOMEPAGE = "https://press.liacs.nl/mirflickr/"
    CITATION = "Huiskes and Lew, MIR 2008"
    NUM_LABELS = len(_TAGS)
    COUNTS: ClassVar = {"train": 19_941, "validation": 2_528, "test": 2_531}
    MD5: ClassVar = {"mirflickr25k.zip": "a23d0a8564ee84cda5622a6c2f947785"}

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return name.lower().startswith("mirflickr")

    @classmethod
    def list_images(cls, source: SourceFiles) -> TagListing:
        matches = filter(None, map(_IMAGE.search, source.names()))
        paths = {int(match["number"]): match.string for match in matches}
        if not paths:
            raise UserError(
                f"{source.path} has no images im1.jpg, ….\n{download_instructions(cls.name)}"
            )
        listing = TagListing("annotations v080, splits made by file name", _TAGS)
        tags = _read_annotations(source, listing.problems)
        for number in sorted(paths.keys() | tags.keys()):
            file = f"im{number}.jpg"
            listing.add_tagged(source, _split(file), paths.get(number), file, tags[number])
        return listing.finished()


def _read_annotations(source: SourceFiles, problems: list[tuple[str, str]]) -> dict[int, list[int]]:
    """Number of an image -> its tags, from a file for each tag with an image a line."""
    tags: dict[int, list[int]] = defaultdict(list)
    for tag, name in enumerate(_TAGS):
        path = source.first(f"{name}.txt")
        if path is None:
            raise UserError(
                f"{source.path} has no annotations {name}.txt: they are in "
                f"mirflickr25k_annotations_v080.zip.\n{download_instructions(Mirflickr25k.name)}"
            )
        for location, line in numbered_lines(source, path):
            if re.fullmatch(r"[0-9]{1,9}", line):
                tags[int(line)].append(tag)
            else:
                problems.append(
                    (location, f"malformed: {line[:80]!r} is not the number of an image")
                )
    return tags


def _split(file: str) -> str:
    fraction = hash_fraction(file)
    return "test" if fraction < 0.1 else "validation" if fraction < 0.2 else "train"
