"""COCO captions from the official files, unpacked or as the zips they come in.

Chen et al., Microsoft COCO Captions: Data Collection and Evaluation Server, 2015.
"""

import re
from collections.abc import Iterable

from jaxtag.datasets import coco_json
from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.captioned import CaptionListing
from jaxtag.datasets.coco_json import read_coco_json, read_json
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.karpathy import read_karpathy
from jaxtag.errors import UserError

_ARCHIVES = re.compile(
    r"^((train|val|test)20(14|17)|annotations_trainval20(14|17)|image_info_test20(14|17)"
    r"|caption_datasets|dataset_coco)\.",
    re.IGNORECASE,
)


class CocoCaptions(ImageDatasetBuilder):
    """COCO captions: photographs of everyday scenes, five captions each.

    Of the forms in the source the split of Karpathy (dataset_coco.json) is taken first, then 2017,
    then 2014; `coco_captions_karpathy`, `coco_captions_2017`, `coco_captions_2014` insist on one.
    Without Karpathy's file the official train and val parts are `train` and `validation`, and the
    pictures of the test part, which has no public captions, are `test`.
    """

    name = "coco_captions"
    HOMEPAGE = "https://cocodataset.org"
    CITATION = "Chen et al., Microsoft COCO Captions, arXiv:1504.00325, 2015"
    MD5 = coco_json.MD5
    FORMS: tuple[str, ...] = ("karpathy", "2017", "2014")

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(_ARCHIVES.match(archive))

    @classmethod
    def list_pictures(cls, store: Store) -> CaptionListing:
        for form in cls.FORMS:
            listing = _karpathy(store) if form == "karpathy" else _official(store, form)
            if listing is not None:
                return listing
        raise UserError(
            f"{store.path} has no COCO captions ({', '.join(map(_looked_for, cls.FORMS))}).\n"
            f"{download_instructions(cls.name)}"
        )


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


def _looked_for(form: str) -> str:
    return "dataset_coco.json" if form == "karpathy" else f"captions_{{train,val}}{form}.json"


def _karpathy(store: Store) -> CaptionListing | None:
    found = store.find("dataset_coco.json")
    if not found:
        return None
    listing = CaptionListing("COCO 2014 in Karpathy's split")
    folders = {name: store.folder(name) for name in _folders("2014") + _folders("2017")}
    for entry in read_karpathy(store, found[0]):
        # The pictures of 2017 are those of 2014 under other names.
        of_2017 = f"{entry.coco_id:012d}.jpg" if entry.coco_id is not None else ""
        path = folders.get(entry.folder, {}).get(entry.file)
        path = path or _first(folders[name].get(entry.file) for name in _folders("2014"))
        path = path or _first(folders[name].get(of_2017) for name in _folders("2017"))
        image_id = entry.file if entry.coco_id is None else str(entry.coco_id)
        file = f"{entry.folder}/{entry.file}" if entry.folder else entry.file
        listing.add_captioned(store, entry.split, path, file, image_id, entry.captions)
    return listing.finished()


def _official(store: Store, year: str) -> CaptionListing | None:
    listing = CaptionListing(f"COCO {year}")
    read_any = False
    for split, part in (("train", "train"), ("validation", "val")):
        found = store.find(f"captions_{part}{year}.json")
        if not found:
            continue
        read_any = True
        pictures = store.folder(f"{part}{year}")
        for image in read_coco_json(store, found[0], listing.problems):
            file = f"{part}{year}/{image.file}"
            path = pictures.get(image.file.rpartition("/")[2])
            listing.add_captioned(store, split, path, file, image.id, image.captions)
    if not read_any:
        return None
    _add_test(listing, store, year)
    return listing.finished()


def _add_test(listing: CaptionListing, store: Store, year: str) -> None:
    """The pictures of the test part, without captions; ids from image_info where it is there."""
    part = f"test{year}"
    found = store.find(f"image_info_{part}.json")
    ids = {}
    if found:
        content = read_json(store, found[0])
        try:
            ids = {image["file_name"]: str(image["id"]) for image in content["images"]}
        except (KeyError, TypeError) as error:
            raise UserError(f"{store.where(found[0])} is not in COCO's form: {error}") from error
    for file, path in store.folder(part).items():
        if file.lower().endswith((".jpg", ".jpeg")):
            digits = re.findall(r"\d+", file.rpartition(".")[0])
            image_id = ids.get(file) or (str(int(digits[-1])) if digits else file)
            name = f"{part}/{file}"
            listing.add_captioned(store, "test", path, name, image_id, (), captioned=False)


def _folders(year: str) -> tuple[str, str]:
    return f"train{year}", f"val{year}"


def _first(paths: Iterable[str | None]) -> str | None:
    return next((path for path in paths if path), None)
