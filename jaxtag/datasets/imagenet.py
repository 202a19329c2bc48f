"""ImageNet-1k (ILSVRC 2012) from the official tars, unpacked, or as its Kaggle competition has it.

Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 115, 2015.
"""

import csv
import functools
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.io

from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.base import ImageDatasetBuilder, ImageRecord
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.listings import LabelListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_text
from jaxtag.errors import UserError

_TAR = re.compile(r"(^|/)(?P<synset>n\d{8})\.tar$")
_IN_FOLDER = re.compile(
    r"(^|/)(ILSVRC2012_img_)?(?P<part>train|val|validation)/(?P<synset>n\d{8})/"
    r"(?P<file>[^/]+\.(jpe?g|png))$",
    re.IGNORECASE,
)
_UNSORTED = re.compile(r"(^|/)(?P<file>(?P<stem>ILSVRC2012_val_\d{8})\.jpe?g)$", re.IGNORECASE)
_SYNSET = re.compile(r"^n\d{8}$")

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_SOLUTION = "LOC_val_solution.csv"
_SYNSET_LISTS = ("LOC_synset_mapping.txt", "synset_words.txt")
_MAX_CLASS_ID = 1000  # ids up to here are classes, those above are groups of them
_MAX_META_BYTES = 64 << 20


class Imagenet2012(ImageDatasetBuilder):
    """ImageNet-1k: photographs of 1,000 kinds of things, named by their WordNet id, in its order.

    Images are read one by one from the tars, which stay packed.
    """

    name = "imagenet2012"
    HOMEPAGE = "https://image-net.org/challenges/LSVRC/2012/"
    CITATION = "Russakovsky et al., IJCV 115:211-252, 2015"
    COUNTS: ClassVar = {"train": 1_281_167, "validation": 50_000}
    NUM_LABELS = 1000
    MD5: ClassVar = {
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    }

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(re.match(r"(?i)ilsvrc|imagenet|loc_", name))

    @classmethod
    def list_images(cls, source: SourceFiles) -> LabelListing:
        names = source.names()
        in_folders = [match for name in names if (match := _IN_FOLDER.search(name))]
        tars = [match for name in names if (match := _TAR.search(name))]
        # Class folders of the validation part say more than its files in one folder.
        sorted_files = {match["file"] for match in in_folders if _split(match) == "validation"}
        unsorted = [match for name in names if (match := _UNSORTED.search(name))]
        unsorted = [match for match in unsorted if match["file"] not in sorted_files]
        if not (in_folders or tars or unsorted):
            raise UserError(f"{source.path} has no ImageNet-1k.\n{download_instructions(cls.name)}")
        devkit = _read_devkit(source)
        truth = _ground_truth(source, devkit) if unsorted else {}
        used = {match["synset"] for match in (*in_folders, *tars)} | set(truth.values())
        classes = _classes(source, devkit, used)
        variant = "official tars" if tars else "unpacked images"
        listing = LabelListing(variant, {"label": classes})
        labels = {synset: {"label": number} for number, synset in enumerate(classes)}
        for match in in_folders:
            split, synset = _split(match), match["synset"]
            file = f"{split}/{synset}/{match['file']}"
            listing.add_stored(source, split, match.string, file, labels[synset])
        for match in tars:
            _add_tar(listing, source, match.string, match["synset"], labels)
        for match in unsorted:
            _add_unsorted(listing, source, match, truth, labels)
        return listing


def _split(match: re.Match[str]) -> str:
    return "train" if match["part"].lower() == "train" else "validation"


def _add_tar(
    listing: LabelListing, source: SourceFiles, tar: str, synset: str, labels: Mapping[str, Any]
) -> None:
    """Adds the images of one class, at their offsets in its tar."""
    for path, offset, size in source.tar_members(tar):
        load = functools.partial(source.read_part, tar, offset, size)
        file = f"train/{synset}/{path.rpartition('/')[2]}"
        listing.add("train", ImageRecord(file, load, labels[synset]), size)


def _add_unsorted(
    listing: LabelListing,
    source: SourceFiles,
    match: re.Match[str],
    truth: Mapping[str, str],
    labels: Mapping[str, Any],
) -> None:
    """Adds an image of the validation part that lies among all others."""
    synset = truth.get(match["stem"])
    if synset is None:
        listing.problems.append((match.string, "the ground truth does not have it"))
    else:
        file = f"validation/{synset}/{match['file']}"
        listing.add_stored(source, "validation", match.string, file, labels[synset])


@dataclass(frozen=True)
class _Devkit:
    """`synsets` in the order of their names; `truth`: stem of a file name -> synset."""

    synsets: list[str]
    truth: Mapping[str, str]


def _ground_truth(source: SourceFiles, devkit: _Devkit | None) -> Mapping[str, str]:
    """Stem of a validation image's file name -> its synset."""
    truth = _read_solution(source) or (devkit.truth if devkit else {})
    if not truth:
        raise UserError(
            f"{source.path} has images of the validation part, but not what they show: add "
            "ILSVRC2012_devkit_t12.tar.gz or LOC_val_solution.csv, or sort them into folders"
        )
    return truth


def _classes(source: SourceFiles, devkit: _Devkit | None, used: Iterable[str]) -> list[str]:
    """All synsets in the order of their ids: as listed, so that a part has the same labels."""
    classes = _read_synsets(source) or (devkit.synsets if devkit else sorted(used))
    extra = sorted(set(used) - set(classes))
    if extra:
        raise UserError(
            f"{source.path} has images of {', '.join(extra[:3])}, which its list of classes does "
            "not have"
        )
    return classes


def _read_devkit(source: SourceFiles) -> _Devkit | None:
    """Reads the development kit; None where it is not there.

    Raises:
        UserError: It is there in part, or damaged.
    """
    truth, meta = source.first(_GROUND_TRUTH), source.first(_META)
    if not truth:
        return None
    if not meta:
        raise UserError(f"{source.path} has {_GROUND_TRUTH}, but no {_META}, which comes with it")
    synsets = _synsets_by_id(source, meta)
    synset_of_stem = {}
    for number, line in enumerate(read_text(source, truth).split(), start=1):
        synset = synsets.get(int(line)) if line.isdecimal() else None
        if synset is None:
            raise UserError(f"{source.where(truth)}, line {number}: {line!r} is no class")
        synset_of_stem[f"ILSVRC2012_val_{number:08d}"] = synset
    classes = sorted(synset for number, synset in synsets.items() if number <= _MAX_CLASS_ID)
    return _Devkit(classes, synset_of_stem)


def _read_solution(source: SourceFiles) -> dict[str, str]:
    """Reads Kaggle's ground truth, stem of a file name -> synset; empty where it is not there.

    Raises:
        UserError: It is malformed.
    """
    path = source.first(_SOLUTION)
    if not path:
        return {}
    rows = csv.DictReader(io.StringIO(read_text(source, path)))
    synset_of_stem = {}
    for row in rows:
        stem, synset = row.get("ImageId"), (row.get("PredictionString") or "").partition(" ")[0]
        if not stem or not _SYNSET.match(synset):
            raise UserError(
                f"{source.where(path)}, line {rows.line_num}: not an image's ImageId and, "
                "in PredictionString, a class"
            )
        synset_of_stem[stem] = synset
    return synset_of_stem


def _read_synsets(source: SourceFiles) -> list[str]:
    """Reads LOC_synset_mapping.txt or synset_words.txt, sorted; empty without either.

    Raises:
        UserError: A line does not start with a synset.
    """
    path = source.first(*_SYNSET_LISTS)
    if path is None:
        return []
    synsets = []
    for number, line in enumerate(read_text(source, path).splitlines(), start=1):
        synset = line.partition(" ")[0]
        if line and not _SYNSET.match(synset):
            raise UserError(f"{source.where(path)}, line {number}: {synset!r} is no synset")
        synsets += [synset] if line else []
    return sorted(synsets)


def _synsets_by_id(source: SourceFiles, name: str) -> dict[int, str]:
    """ILSVRC2012_ID -> synset, of meta.mat."""
    where = source.where(name)
    try:
        data = source.read(name, _MAX_META_BYTES)
        table = scipy.io.loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        ids, synsets = np.atleast_1d(table["ILSVRC2012_ID"]), np.atleast_1d(table["WNID"])
        return {int(number): str(synset) for number, synset in zip(ids, synsets, strict=True)}
    except ReadError as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # scipy raises many kinds for damaged data
        raise UserError(f"{where} is no list of synsets ({error}): get it again") from error
