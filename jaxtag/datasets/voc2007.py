"""Pascal VOC 2007 from its official tars or unpacked: which of 20 kinds of things are seen.

Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 88, 2010.
"""

import re
from typing import ClassVar
from xml.etree import ElementTree

from jaxtag.datasets.archives import ReadError, Store
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.tagged import TagListing, read_lines
from jaxtag.errors import UserError

_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_NUMBERS = {name: number for number, name in enumerate(_CLASSES)}
_LISTS = {"train": "train", "validation": "val", "test": "test"}
_MAX_XML_BYTES = 1 << 20


class Voc2007(ImageDatasetBuilder):
    """Pascal VOC 2007: photographs tagged with the 20 kinds of things of the classification task.

    A class of which a picture has only objects marked `difficult` is unknown in it: as in the
    challenge, it counts neither as present nor as absent.
    """

    name = "voc2007"
    HOMEPAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
    CITATION = "Everingham et al., IJCV 88:303-338, 2010"
    COUNTS: ClassVar = {"train": 2_501, "validation": 2_510, "test": 4_952}
    MD5: ClassVar = {
        "VOCtrainval_06-Nov-2007.tar": "c52e279531787c972589f7e41ab4ae64",
        "VOCtest_06-Nov-2007.tar": "b6e924de25625d8de591ea690078ad9f",
    }

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(re.match(r"(?i)(voc|pascal).*2007", archive))

    @classmethod
    def list_pictures(cls, store: Store) -> TagListing:
        listing = TagListing("VOCdevkit", _CLASSES)
        found = {split: _find(store, f"{part}.txt") for split, part in _LISTS.items()}
        if not any(found.values()):
            raise UserError(
                f"{store.path} has no Pascal VOC 2007 (ImageSets/Main/train.txt and others).\n"
                f"{download_instructions(cls.name)}"
            )
        for split, path in found.items():
            if path:
                _add(listing, store, split, path)
        return listing.finished()


def _find(store: Store, name: str) -> str | None:
    """The list of a split: in a folder VOC2007, or where no folder has the year of another one."""
    found = store.find(f"ImageSets/Main/{name}")
    of_2007 = [path for path in found if "VOC2007/" in path]
    others = [path for path in found if not re.search(r"VOC20\d\d/", path)]
    return next(iter(of_2007 or others), None)


def _add(listing: TagListing, store: Store, split: str, path: str) -> None:
    """Adds the pictures of one list, which lie beside ImageSets with their annotations."""
    base = path.removesuffix(f"ImageSets/Main/{path.rpartition('/')[2]}")
    for name in read_lines(store, path):
        file = f"{name}.jpg"
        picture, annotation = f"{base}JPEGImages/{file}", f"{base}Annotations/{name}.xml"
        try:
            present, difficult = _objects(store.read(annotation, _MAX_XML_BYTES))
        except (ReadError, ValueError) as error:
            listing.problems.append((f"Annotations/{name}.xml", str(error)))
            continue
        found = picture if picture in store else None
        listing.add_tagged(store, split, found, file, present, difficult)


def _objects(data: bytes) -> tuple[set[int], set[int]]:
    """The classes of all objects of an annotation, and of those that are difficult.

    Raises:
        ValueError: it is malformed.
    """
    try:
        text = data.decode("utf-8")
        if "<!DOCTYPE" in text:  # entities could grow without bounds
            raise ValueError("it has a document type, which no file of VOC has")
        root = ElementTree.fromstring(text)
    except (ValueError, ElementTree.ParseError) as error:
        raise ValueError(f"malformed: {error}") from error
    present, difficult = set(), set()
    for thing in root.iter("object"):
        name = (thing.findtext("name") or "").strip()
        if name not in _NUMBERS:
            raise ValueError(f"malformed: an object is called {name!r}")
        hard = (thing.findtext("difficult") or "0").strip() == "1"
        (difficult if hard else present).add(_NUMBERS[name])
    return present, difficult
