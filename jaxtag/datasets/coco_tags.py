"""COCO's 80 categories of things as tags, from the official files, unpacked or as their zips.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.
"""

import re

from jaxtag.datasets import coco_json
from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.coco_json import CocoImage, read_coco_instances
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.tagged import TagListing
from jaxtag.errors import UserError

_ARCHIVES = re.compile(r"^((train|val)20(14|17)|annotations_trainval20(14|17))\.", re.IGNORECASE)
_PARTS = {"train": "train", "validation": "val"}


class CocoTags(ImageDatasetBuilder):
    """COCO: photographs of everyday scenes, tagged with the categories of things seen in them.

    A category is present where a picture has an object of it, or a crowd. Pictures without any
    object are kept; those of the test part, of which nothing is published, are not. Of the forms in
    the source 2017 is taken first; `coco_tags_2017`, `coco_tags_2014` insist on one.
    """

    name = "coco_tags"
    HOMEPAGE = "https://cocodataset.org"
    CITATION = "Lin et al., Microsoft COCO, ECCV 2014"
    MD5 = coco_json.MD5
    FORMS: tuple[str, ...] = ("2017", "2014")

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(_ARCHIVES.match(archive))

    @classmethod
    def list_pictures(cls, store: Store) -> TagListing:
        for year in cls.FORMS:
            listing = _official(store, year)
            if listing is not None:
                return listing
        files = ", ".join(f"instances_{{train,val}}{year}.json" for year in cls.FORMS)
        raise UserError(
            f"{store.path} has no objects of COCO ({files}).\n{download_instructions(cls.name)}"
        )


class CocoTags2014(CocoTags):
    """COCO tags of 2014, split as published: the split in which papers on tagging report."""

    name = "coco_tags_2014"
    FORMS = ("2014",)


class CocoTags2017(CocoTags):
    """COCO tags of 2017, split as published."""

    name = "coco_tags_2017"
    FORMS = ("2017",)


def _official(store: Store, year: str) -> TagListing | None:
    problems: list[tuple[str, str]] = []
    categories: dict[str, list[str]] = {}  # file -> names
    images: dict[str, list[CocoImage]] = {}
    for split, part in _PARTS.items():
        found = store.find(f"instances_{part}{year}.json")
        if found:
            names, images[split] = read_coco_instances(store, found[0], problems)
            categories[store.where(found[0])] = names
    if not images:
        return None
    if len({tuple(names) for names in categories.values()}) > 1:
        raise UserError(f"{' and '.join(categories)} have different categories")
    listing = TagListing(f"COCO {year}", names)
    listing.problems += problems
    numbers = {name: number for number, name in enumerate(names)}
    for split, found in images.items():
        folder = f"{_PARTS[split]}{year}"
        pictures = store.folder(folder)
        for image in found:
            path = pictures.get(image.file.rpartition("/")[2])
            tags = map(numbers.get, image.tags)
            listing.add_tagged(store, split, path, f"{folder}/{image.file}", tags)
    return listing.finished()
