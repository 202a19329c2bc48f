"""NUS-WIDE from its lists, its 81 files of concepts and the pictures that are still to be had.

Chua et al., NUS-WIDE: A Real-World Web Image Database from National University of Singapore,
CIVR 2009.
"""

import re
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import ImageDatasetBuilder, hold_out
from jaxtag.datasets.coco_json import read_text
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.tagged import TagListing, read_lines
from jaxtag.errors import UserError

_PARTS = {"train": "Train", "test": "Test"}
_LABELS = re.compile(r"(^|/)Labels_(?P<concept>[^/]+?)(_(?P<part>Train|Test))?\.txt$")


class NusWide(ImageDatasetBuilder):
    """NUS-WIDE: photographs from Flickr, tagged with 81 concepts by people.

    The official lists make `train` and `test`; a tenth of the former, by a hash of their names, is
    `validation`. Pictures that Flickr no longer has are left out and counted; those that show none
    of the concepts are kept.
    """

    name = "nus_wide"
    HOMEPAGE = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
    CITATION = "Chua et al., CIVR 2009"
    COUNTS: ClassVar = {"test": 107_859}

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(
            re.match(
                r"(?i)nus.?wide|flickr|image_?list|groundtruth|concepts?_?list|images", archive
            )
        )

    @classmethod
    def list_pictures(cls, store: Store) -> TagListing:
        lists = {split: _list(store, f"{part}Imagelist.txt") for split, part in _PARTS.items()}
        missing = [f"{_PARTS[split]}Imagelist.txt" for split in lists if not lists[split]]
        if missing:
            raise UserError(
                f"{store.path} has no {' nor '.join(missing)}.\n{download_instructions(cls.name)}"
            )
        files = _label_files(store)
        concepts = _concepts(store, files)
        by_part = all((concept, part) in files for concept in concepts for part in _PARTS.values())
        where = "TrainTestLabels" if by_part else "AllLabels"
        listing = TagListing(f"official lists, {where}", concepts)
        everything = {} if by_part else _all_tags(store, files, concepts)
        for split, part in _PARTS.items():
            names = lists[split]
            if by_part:
                paths = [files[concept, part] for concept in concepts]
                tags = _tags(store, paths, names)
            else:
                tags = (_of_list(everything, name, part) for name in names)
            for name, numbers in zip(names, tags, strict=True):
                listing.add_tagged(store, split, _find(store, name), name, numbers)
        listing.finished()
        train = hold_out(listing.splits.pop("train", []))
        listing.splits = {**train, **listing.splits}
        return listing


def _list(store: Store, name: str) -> list[str]:
    """The pictures of an official list as FOLDER/FILE; it is written with backslashes."""
    found = store.find(name)
    lines = read_lines(store, found[0]) if found else []
    return ["/".join(line.replace("\\", "/").split("/")[-2:]) for line in lines]


def _label_files(store: Store) -> dict[tuple[str, str | None], str]:
    """(concept, Train, Test or None for all pictures) -> the file that tells who shows it."""
    found = filter(None, map(_LABELS.search, store.names()))
    return {(match["concept"], match["part"]): match.string for match in found}


def _concepts(store: Store, files: dict[tuple[str, str | None], str]) -> list[str]:
    """The names of Concepts81.txt in its order; without it, of the files in theirs."""
    found = store.find("Concepts81.txt")
    names = {concept for concept, _ in files}
    concepts = read_lines(store, found[0]) if found else sorted(names)
    absent = [concept for concept in concepts if concept not in names]
    if absent or not concepts:
        raise UserError(
            f"{store.path} has no Labels_{absent[0] if absent else 'CONCEPT'}.txt, nor that of "
            f"{max(len(absent) - 1, 0)} other concepts: they are in Groundtruth.zip"
        )
    return concepts


def _all_tags(store: Store, files: dict, concepts: list[str]) -> dict[str, list[int]]:
    """Picture -> numbers of its concepts, by the list of all pictures."""
    names = _list(store, "Imagelist.txt")
    incomplete = [concept for concept in concepts if (concept, None) not in files]
    if incomplete or not names:
        what = f"Labels_{incomplete[0]}.txt" if incomplete else "Imagelist.txt"
        raise UserError(f"{store.path} has no {what}, and the labels by part are not complete")
    tags = _tags(store, [files[concept, None] for concept in concepts], names)
    return dict(zip(names, tags, strict=True))


def _of_list(everything: dict[str, list[int]], name: str, part: str) -> list[int]:
    if name not in everything:
        raise UserError(f"{part}Imagelist.txt has {name}, which Imagelist.txt does not have")
    return everything[name]


def _tags(store: Store, paths: list[str], names: list[str]) -> Iterator[list[int]]:
    """The numbers of each picture's concepts, from a file a concept with 0 or 1 a line."""
    shown = np.empty((len(names), len(paths)), bool)
    for number, path in enumerate(paths):
        values = read_text(store, path).split()
        if len(values) != len(names):
            raise UserError(
                f"{store.where(path)} has {len(values):,} lines, but its list has {len(names):,}: "
                "get it again"
            )
        odd = set(values) - {"0", "1"}
        if odd:
            raise UserError(f"{store.where(path)}: {min(odd)!r} is neither 0 nor 1")
        shown[:, number] = [value == "1" for value in values]
    return (np.flatnonzero(row).tolist() for row in shown)


def _find(store: Store, name: str) -> str | None:
    """A picture in the folder of its list, or by its own name or Flickr's number alone."""
    file = name.rpartition("/")[2]
    photo = file.rpartition("_")[2]
    return next((found[0] for part in (name, file, photo) if (found := store.find(part))), None)
