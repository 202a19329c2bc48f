"""CIFAR-10 in class folders.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import re
from typing import ClassVar

from jaxtag.data.archives import Store
from jaxtag.data.builders.base import PictureBuilder
from jaxtag.data.builders.class_folders import list_class_folders
from jaxtag.data.builders.instructions import how_to_get
from jaxtag.data.builders.labelled import LabelListing
from jaxtag.errors import UserError

_CIFAR10 = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


class Cifar10(PictureBuilder):
    """CIFAR-10: photographs of ten kinds of animals and vehicles, 32x32 pixels."""

    name = "cifar10"
    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
    CITATION = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    COUNTS: ClassVar = {"train": 50_000, "test": 10_000}

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(re.match(r"(?i)cifar-?10(?!0)", archive))

    @classmethod
    def list_pictures(cls, store: Store) -> LabelListing:
        listing = list_class_folders(store)
        if listing and listing.features["label"].names == _CIFAR10:
            return listing
        raise UserError(f"{store.path} has no CIFAR-10.\n{how_to_get(cls.name)}")
