"""ImageNet-1k (ILSVRC 2012) from the official tars, unpacked, or as its Kaggle competition has it.

Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import ImageDatasetBuilder, ImageRecord
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.imagenet_lists import Devkit, read_devkit, read_solution, read_synsets
from jaxtag.datasets.labelled import LabelListing
from jaxtag.errors import UserError

_TAR = re.compile(r"(^|/)(?P<synset>n\d{8})\.tar$")
_IN_FOLDER = re.compile(
    r"(^|/)(ILSVRC2012_img_)?(?P<part>train|val|validation)/(?P<synset>n\d{8})/"
    r"(?P<file>[^/]+\.(jpe?g|png))$",
    re.IGNORECASE,
)
_HEAP = re.compile(r"(^|/)(?P<file>(?P<stem>ILSVRC2012_val_\d{8})\.jpe?g)$", re.IGNORECASE)


class Imagenet2012(ImageDatasetBuilder, skip_registration=True):  # tfds has its own
    """ImageNet-1k: photographs of 1,000 kinds of things, named by their WordNet id, in its order.

    Pictures are read one by one from the tars, which stay packed.
    """

    name = "imagenet2012"
    HOMEPAGE = "https://image-net.org/challenges/LSVRC/2012/"
    CITATION = "Russakovsky et al., IJCV 115:211-252, 2015"
    COUNTS: ClassVar = {"train": 1_281_167, "validation": 50_000}
    MD5: ClassVar = {
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    }

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(re.match(r"(?i)ilsvrc|imagenet|loc_", archive))

    @classmethod
    def list_pictures(cls, store: Store) -> LabelListing:
        names = store.names()
        folders = list(filter(None, map(_IN_FOLDER.search, names)))
        tars = list(filter(None, map(_TAR.search, names)))
        # Class folders of the validation part say more than its files in one heap.
        sorted_out = {found["file"] for found in folders if _split(found) == "validation"}
        heap = [found for found in map(_HEAP.search, names) if found]
        heap = [found for found in heap if found["file"] not in sorted_out]
        if not (folders or tars or heap):
            raise UserError(f"{store.path} has no ImageNet-1k.\n{download_instructions(cls.name)}")
        devkit = read_devkit(store)
        truth = _truth(store, devkit) if heap else {}
        seen = {found["synset"] for found in (*folders, *tars)} | set(truth.values())
        classes = _classes(store, devkit, seen)
        variant = "official tars" if tars else "unpacked pictures"
        listing = LabelListing(variant, {"label": classes})
        labels = {synset: {"label": number} for number, synset in enumerate(classes)}
        for found in folders:
            split, synset = _split(found), found["synset"]
            file = f"{split}/{synset}/{found['file']}"
            listing.add_stored(store, split, found.string, file, labels[synset])
        for found in tars:
            _add_tar(listing, store, found.string, found["synset"], labels)
        for found in heap:
            _add_from_heap(listing, store, found, truth, labels)
        return listing


def _split(found: re.Match) -> str:
    return "train" if found["part"].lower() == "train" else "validation"


def _truth(store: Store, devkit: Devkit | None) -> Mapping[str, str]:
    """Stem of a validation picture's file name -> its synset."""
    truth = read_solution(store) or (devkit.truth if devkit else {})
    if not truth:
        raise UserError(
            f"{store.path} has pictures of the validation part, but not what they show: add "
            "ILSVRC2012_devkit_t12.tar.gz or LOC_val_solution.csv, or sort them into folders"
        )
    return truth


def _classes(store: Store, devkit: Devkit | None, seen: Iterable[str]) -> list[str]:
    """All synsets in the order of their ids: as listed, so that a part has the same labels."""
    classes = read_synsets(store) or (devkit.synsets if devkit else sorted(seen))
    extra = sorted(set(seen) - set(classes))
    if extra:
        raise UserError(
            f"{store.path} has pictures of {', '.join(extra[:3])}, which its list of classes does "
            "not have"
        )
    return classes


def _add_tar(
    listing: LabelListing, store: Store, tar: str, synset: str, labels: Mapping[str, Any]
) -> None:
    """Adds the pictures of one class, at their places in its tar."""
    for path, offset, size in store.tar_members(tar):
        load = functools.partial(store.read_part, tar, offset, size)
        file = f"train/{synset}/{path.rpartition('/')[2]}"
        listing.add("train", ImageRecord(file, load, labels[synset]), size)


def _add_from_heap(
    listing: LabelListing,
    store: Store,
    found: re.Match,
    truth: Mapping[str, str],
    labels: Mapping[str, Any],
) -> None:
    """Adds a picture of the validation part that lies among all others."""
    synset = truth.get(found["stem"])
    if synset is None:
        listing.problems.append((found.string, "the ground truth does not have it"))
    else:
        file = f"validation/{synset}/{found['file']}"
        listing.add_stored(store, "validation", found.string, file, labels[synset])
