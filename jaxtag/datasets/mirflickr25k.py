"""MIRFlickr-25K from its two zips, packed or not.

Huiskes and Lew, The MIR Flickr Retrieval Evaluation, MIR 2008.
"""

import re
from collections import defaultdict
from typing import ClassVar

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import ImageDatasetBuilder, hash_fraction
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.tagged import TagListing, numbered_lines
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
_PICTURE = re.compile(r"(^|/)im(?P<number>\d+)\.jpe?g$", re.IGNORECASE)


class Mirflickr25k(ImageDatasetBuilder):
    """MIRFlickr-25K: photographs from Flickr, tagged with 38 annotations by people.

    The first 24 tags say that a topic is to be seen at all ("potential"), the 14 that end in `_r1`,
    as their files do, that it is what the picture is about ("relevant"). There is no official
    split: by a hash of the file name a tenth is `test`, a tenth `validation` and the rest `train`.
    """

    name = "mirflickr25k"
    HOMEPAGE = "https://press.liacs.nl/mirflickr/"
    CITATION = "Huiskes and Lew, MIR 2008"
    COUNTS: ClassVar = {"train": 19_941, "validation": 2_528, "test": 2_531}
    MD5: ClassVar = {"mirflickr25k.zip": "a23d0a8564ee84cda5622a6c2f947785"}

    @staticmethod
    def wanted(archive: str) -> bool:
        return archive.lower().startswith("mirflickr")

    @classmethod
    def list_pictures(cls, store: Store) -> TagListing:
        found = filter(None, map(_PICTURE.search, store.names()))
        paths = {int(match["number"]): match.string for match in found}
        if not paths:
            raise UserError(
                f"{store.path} has no pictures im1.jpg, ….\n{download_instructions(cls.name)}"
            )
        listing = TagListing("annotations v080, splits made by file name", _TAGS)
        tags = _annotations(store, listing.problems)
        for number in sorted(paths.keys() | tags.keys()):
            file = f"im{number}.jpg"
            listing.add_tagged(store, _split(file), paths.get(number), file, tags[number])
        return listing.finished()


def _annotations(store: Store, problems: list[tuple[str, str]]) -> dict[int, list[int]]:
    """Number of a picture -> its tags, from a file for each tag with a picture a line."""
    tags = defaultdict(list)
    for tag, name in enumerate(_TAGS):
        found = store.find(f"{name}.txt")
        if not found:
            raise UserError(
                f"{store.path} has no annotations {name}.txt: they are in "
                f"mirflickr25k_annotations_v080.zip.\n{download_instructions(Mirflickr25k.name)}"
            )
        for at, line in numbered_lines(store, found[0]):
            if line.isdecimal():
                tags[int(line)].append(tag)
            else:
                problems.append((at, f"malformed: {line[:80]!r} is not the number of a picture"))
    return tags


def _split(file: str) -> str:
    drawn = hash_fraction(file)
    return "test" if drawn < 0.1 else "validation" if drawn < 0.2 else "train"
