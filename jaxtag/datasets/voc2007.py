"""Pascal VOC 2007 from its official tars or unpacked: which of 20 kinds of things are seen.

Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 88, 2010.
"""

import re
from typing import ClassVar
from xml.etree import ElementTree

from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.listings import TagListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_lines
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

    A class of which an image has only objects marked `difficult` is unknown in it: as in the
    challenge, it counts neither as present nor as absent.
    """

    name = "voc2007"
    HOMEPAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
    CITATION = "Everingham et al., IJCV 88:303-338, 2010"
    NUM_LABELS = len(_CLASSES)
    COUNTS: ClassVar = {"train": 2_501, "validation": 2_510, "test": 4_952}
    MD5: ClassVar = {
        "VOCtrainval_06-Nov-2007.tar": "c52e279531787c972589f7e41ab4ae64",
        "VOCtest_06-Nov-2007.tar": "b6e924de25625d8de591ea690078ad9f",
    }

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(re.match(r"(?i)(voc|pascal).*2007", name))

    @classmethod
    def list_images(cls, source: SourceFiles) -> TagListing:
        listing = TagListing("VOCdevkit", _CLASSES)
        lists = {split: _find_list(source, f"{part}.txt") for split, part in _LISTS.items()}
        if not any(lists.values()):
            raise UserError(
                f"{source.path} has no Pascal VOC 2007 (ImageSets/Main/train.txt and others).\n"
                f"{download_instructions(cls.name)}"
            )
        for split, path in lists.items():
            if path:
                _add_list(listing, source, split, path)
        return listing.finished()


def _find_list(source: SourceFiles, name: str) -> str | None:
    """The list of a split: in a folder VOC2007, or where no folder has the year of another one."""
    paths = source.find(f"ImageSets/Main/{name}")
    of_2007 = [path for path in paths if "VOC2007/" in path]
    others = [path for path in paths if not re.search(r"VOC20\d\d/", path)]
    return next(iter(of_2007 or others), None)


def _add_list(listing: TagListing, source: SourceFiles, split: str, path: str) -> None:
    """Adds the images of one list, which lie beside ImageSets with their annotations."""
    base = path.removesuffix(f"ImageSets/Main/{path.rpartition('/')[2]}")
    for name in read_lines(source, path):
        file = f"{name}.jpg"
        image, annotation = f"{base}JPEGImages/{file}", f"{base}Annotations/{name}.xml"
        try:
            present, difficult = _objects(source.read(annotation, _MAX_XML_BYTES))
        except (ReadError, ValueError) as error:
            listing.problems.append((f"Annotations/{name}.xml", str(error)))
            continue
        stored = image if image in source else None
        listing.add_tagged(source, split, stored, file, present, difficult)


def _objects(data: bytes) -> tuple[set[int], set[int]]:
    """The classes of all objects of an annotation, and of those that are difficult.

    Raises:
        ValueError: It is malformed.
    """
    try:
        text = data.decode("utf-8")
        if "<!DOCTYPE" in text:  # entities could grow without bounds
            raise ValueError("it has a document type, which no file of VOC has")
        root = ElementTree.fromstring(text)
    except (ValueError, LookupError, ElementTree.ParseError) as error:
        raise ValueError(f"malformed: {error}") from error
    present: set[int] = set()
    difficult: set[int] = set()
    for element in root.iter("object"):
        name = (element.findtext("name") or "").strip()
        if name not in _NUMBERS:
            raise ValueError(f"malformed: an object is called {name!r}")
        is_difficult = (element.findtext("difficult") or "0").strip() == "1"
        (difficult if is_difficult else present).add(_NUMBERS[name])
    return present, difficult
