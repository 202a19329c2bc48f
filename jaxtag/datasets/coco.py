"""COCO from the official files, unpacked or as the zips they come in: captions, or objects as tags.

Chen et al., Microsoft COCO Captions: Data Collection and Evaluation Server, 2015.
Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.
"""

import abc
import re
from collections.abc import Iterable
from typing import ClassVar

from jaxtag.datasets import coco_json
from jaxtag.datasets.base import ImageDatasetBuilder, Listing
from jaxtag.datasets.coco_json import CocoImage, read_coco_captions, read_coco_instances
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.karpathy import read_karpathy
from jaxtag.datasets.listings import CaptionListing, TagListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_json
from jaxtag.errors import UserError

_PARTS = {"train": "train", "validation": "val"}  # split -> as the files call it
_CAPTION_ARCHIVES = re.compile(
    r"^((train|val|test)20(14|17)|annotations_trainval20(14|17)|image_info_test20(14|17)"
    r"|caption_datasets|dataset_coco)\.",
    re.IGNORECASE,
)
_TAG_ARCHIVES = re.compile(
    r"^((train|val)20(14|17)|annotations_trainval20(14|17))\.", re.IGNORECASE
)


class _Coco(ImageDatasetBuilder):
    """What captions and tags share: the forms in which COCO comes, taken in turn.

    Attributes:
        FORMS: In which form to look for it, the first that is there wins: a year, or "karpathy".
        CONTENT: What is read, for messages.
    """

    HOMEPAGE = "https://cocodataset.org"
    MD5 = coco_json.MD5
    FORMS: ClassVar[tuple[str, ...]]
    CONTENT: ClassVar[str]

    @classmethod
    def list_images(cls, source: SourceFiles) -> Listing:
        for form in cls.FORMS:
            listing = cls._list_form(source, form)
            if listing is not None:
                return listing
        files = ", ".join(map(cls._files, cls.FORMS))
        raise UserError(
            f"{source.path} has no {cls.CONTENT} ({files}).\n{download_instructions(cls.name)}"
        )

    @classmethod
    @abc.abstractmethod
    def _list_form(cls, source: SourceFiles, form: str) -> Listing | None:
        """The images in one form; None where the source has not that one."""

    @staticmethod
    @abc.abstractmethod
    def _files(form: str) -> str:
        """The annotation files of a form, for messages."""


class CocoCaptions(_Coco):
    """COCO captions: photographs of everyday scenes, five captions each.

    Of the forms in the source the split of Karpathy (dataset_coco.json) is taken first, then 2017,
    then 2014; `coco_captions_karpathy`, `coco_captions_2017`, `coco_captions_2014` insist on one.
    Without Karpathy's file the official train and val parts are `train` and `validation`, and the
    images of the test part, which has no public captions, are `test`.
    """

    name = "coco_captions"
    CITATION = "Chen et al., Microsoft COCO Captions, arXiv:1504.00325, 2015"
    FORMS: ClassVar[tuple[str, ...]] = ("karpathy", "2017", "2014")
    CONTENT = "COCO captions"

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(_CAPTION_ARCHIVES.match(name))

    @classmethod
    def _list_form(cls, source: SourceFiles, form: str) -> CaptionListing | None:
        return _karpathy_captions(source) if form == "karpathy" else _captions(source, form)

    @staticmethod
    def _files(form: str) -> str:
        karpathy = form == "karpathy"
        return "dataset_coco.json" if karpathy else f"captions_{{train,val}}{form}.json"


class CocoCaptions2014(CocoCaptions):
    """COCO captions of 2014, split as published."""

    name = "coco_captions_2014"
    FORMS = ("2014",)


class CocoCaptions2017(CocoCaptions):
    """COCO captions of 2017, split as published."""

    name = "coco_captions_2017"
    FORMS = ("2017",)


class CocoCaptionsKarpathy(CocoCaptions):
    """COCO captions in the split of Karpathy and Fei-Fei, in which most papers report."""

    name = "coco_captions_karpathy"
    FORMS = ("karpathy",)


class CocoTags(_Coco):
    """COCO: photographs of everyday scenes, tagged with the categories of things seen in them.

    A category is present where an image has an object of it, or a crowd. Images without any object
    are kept; those of the test part, of which nothing is published, are not. Of the forms in the
    source 2017 is taken first; `coco_tags_2017`, `coco_tags_2014` insist on one.
    """

    name = "coco_tags"
    CITATION = "Lin et al., Microsoft COCO, ECCV 2014"
    NUM_LABELS = 80
    FORMS: ClassVar[tuple[str, ...]] = ("2017", "2014")
    CONTENT = "objects of COCO"

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(_TAG_ARCHIVES.match(name))

    @classmethod
    def _list_form(cls, source: SourceFiles, form: str) -> TagListing | None:
        return _tags(source, form)

    @staticmethod
    def _files(form: str) -> str:
        return f"instances_{{train,val}}{form}.json"


class CocoTags2014(CocoTags):
    """COCO tags of 2014, split as published: the split in which papers on tagging report."""

    name = "coco_tags_2014"
    FORMS = ("2014",)


class CocoTags2017(CocoTags):
    """COCO tags of 2017, split as published."""

    name = "coco_tags_2017"
    FORMS = ("2017",)


def _karpathy_captions(source: SourceFiles) -> CaptionListing | None:
    path = source.first("dataset_coco.json")
    if path is None:
        return None
    listing = CaptionListing("COCO 2014 in Karpathy's split")
    folders = {name: source.folder(name) for name in _folders("2014") + _folders("2017")}
    for entry in read_karpathy(source, path):
        # The images of 2017 are those of 2014 under other names.
        name_of_2017 = f"{entry.coco_id:012d}.jpg" if entry.coco_id is not None else ""
        image = folders.get(entry.folder, {}).get(entry.file)
        image = image or _first(folders[name].get(entry.file) for name in _folders("2014"))
        image = image or _first(folders[name].get(name_of_2017) for name in _folders("2017"))
        image_id = entry.file if entry.coco_id is None else str(entry.coco_id)
        file = f"{entry.folder}/{entry.file}" if entry.folder else entry.file
        listing.add_captioned(source, entry.split, image, file, image_id, entry.captions)
    return listing.finished()


def _captions(source: SourceFiles, year: str) -> CaptionListing | None:
    paths = _annotation_files(source, "captions", year)
    if not paths:
        return None
    listing = CaptionListing(f"COCO {year}")
    for split, path in paths.items():
        images = read_coco_captions(read_json(source, path), source.where(path), listing.problems)
        for image, file, image_path in _located(source, images, f"{_PARTS[split]}{year}"):
            listing.add_captioned(source, split, image_path, file, image.id, image.captions)
    _add_test_images(listing, source, year)
    return listing.finished()


def _add_test_images(listing: CaptionListing, source: SourceFiles, year: str) -> None:
    """Adds the test part, without captions; ids from image_info where it is there."""
    part = f"test{year}"
    info = source.first(f"image_info_{part}.json")
    ids = {}
    if info:
        content = read_json(source, info)
        try:
            ids = {image["file_name"]: str(image["id"]) for image in content["images"]}
        except (KeyError, TypeError) as error:
            raise UserError(f"{source.where(info)} is not in COCO's form: {error}") from error
    for file, path in source.folder(part).items():
        if file.lower().endswith((".jpg", ".jpeg")):
            digits = re.findall(r"\d+", file.rpartition(".")[0])
            image_id = ids.get(file) or (str(int(digits[-1])) if digits else file)
            name = f"{part}/{file}"
            listing.add_captioned(source, "test", path, name, image_id, (), captions_required=False)


def _tags(source: SourceFiles, year: str) -> TagListing | None:
    problems: list[tuple[str, str]] = []
    names: list[str] = []
    names_by_file: dict[str, list[str]] = {}
    images_by_split: dict[str, list[CocoImage]] = {}
    for split, path in _annotation_files(source, "instances", year).items():
        names, images_by_split[split] = read_coco_instances(
            read_json(source, path), source.where(path), problems
        )
        names_by_file[source.where(path)] = names
    if not images_by_split:
        return None
    if any(other != names for other in names_by_file.values()):
        raise UserError(f"{' and '.join(names_by_file)} have different categories")
    listing = TagListing(f"COCO {year}", names)
    listing.problems += problems
    numbers = {name: number for number, name in enumerate(names)}
    for split, images in images_by_split.items():
        for image, file, image_path in _located(source, images, f"{_PARTS[split]}{year}"):
            tags = [numbers[tag] for tag in image.tags]
            listing.add_tagged(source, split, image_path, file, tags)
    return listing.finished()


def _annotation_files(source: SourceFiles, kind: str, year: str) -> dict[str, str]:
    """Split -> its annotation file, of the splits that have one."""
    paths = {split: source.first(f"{kind}_{part}{year}.json") for split, part in _PARTS.items()}
    return {split: path for split, path in paths.items() if path is not None}


def _located(
    source: SourceFiles, images: list[CocoImage], folder: str
) -> Iterable[tuple[CocoImage, str, str | None]]:
    """(image, its name in records, its path in the source or None) of the images of a part."""
    paths = source.folder(folder)
    for image in images:
        yield image, f"{folder}/{image.file}", paths.get(image.file.rpartition("/")[2])


def _folders(year: str) -> tuple[str, str]:
    return f"train{year}", f"val{year}"


def _first(paths: Iterable[str | None]) -> str | None:
    return next((path for path in paths if path), None)
