"""NUS-WIDE from its lists, its 81 files of concepts and the images that are still to be had.

Chua et al., NUS-WIDE: A Real-World Web Image Database from National University of Singapore,
CIVR 2009.
"""

import re
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from jaxtag.datasets.base import ImageDatasetBuilder, hold_out
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.listings import TagListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_lines, read_text
from jaxtag.errors import UserError

_PARTS = {"train": "Train", "test": "Test"}
_LABELS = re.compile(r"(^|/)Labels_(?P<concept>[^/]+?)(_(?P<part>Train|Test))?\.txt$")


class NusWide(ImageDatasetBuilder):
    """NUS-WIDE: photographs from Flickr, tagged with 81 concepts by people.

    The official lists make `train` and `test`; a tenth of the former, by a hash of their names, is
    `validation`. Images that Flickr no longer has are left out and counted; those that show none
    of the concepts are kept.
    """

    name = "nus_wide"
    HOMEPAGE = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
    CITATION = "Chua et al., CIVR 2009"
    NUM_LABELS = 81
    COUNTS: ClassVar = {"test": 107_859}

    @staticmethod
    def accepts_archive(name: str) -> bool:
        pattern = r"(?i)nus.?wide|flickr|image_?list|groundtruth|concepts?_?list|images"
        return bool(re.match(pattern, name))

    @classmethod
    def list_images(cls, source: SourceFiles) -> TagListing:
        lists = {
            split: _read_list(source, f"{part}Imagelist.txt") for split, part in _PARTS.items()
        }
        missing = [f"{_PARTS[split]}Imagelist.txt" for split in lists if not lists[split]]
        if missing:
            raise UserError(
                f"{source.path} has no {' nor '.join(missing)}.\n{download_instructions(cls.name)}"
            )
        files = _label_files(source)
        concepts = _concepts(source, files)
        by_part = all((concept, part) in files for concept in concepts for part in _PARTS.values())
        where = "TrainTestLabels" if by_part else "AllLabels"
        listing = TagListing(f"official lists, {where}", concepts)
        tags_of_image = {} if by_part else _all_tags(source, files, concepts)
        for split, part in _PARTS.items():
            names = lists[split]
            if by_part:
                paths = [files[concept, part] for concept in concepts]
                tags = _read_tags(source, paths, names)
            else:
                tags = (_look_up(tags_of_image, name, part) for name in names)
            for name, numbers in zip(names, tags, strict=True):
                listing.add_tagged(source, split, _find_image(source, name), name, numbers)
        listing.finished()
        train = hold_out(listing.splits.pop("train", []))
        listing.splits = {**train, **listing.splits}
        return listing


def _read_list(source: SourceFiles, name: str) -> list[str]:
    """The images of an official list as FOLDER/FILE; it is written with backslashes."""
    path = source.first(name)
    lines = read_lines(source, path) if path else []
    return ["/".join(line.replace("\\", "/").split("/")[-2:]) for line in lines]


def _label_files(source: SourceFiles) -> dict[tuple[str, str | None], str]:
    """(concept, Train, Test or None for all images) -> its file of 0 and 1 for each image."""
    matches = filter(None, map(_LABELS.search, source.names()))
    return {(match["concept"], match["part"]): match.string for match in matches}


def _concepts(source: SourceFiles, files: dict[tuple[str, str | None], str]) -> list[str]:
    """The names of Concepts81.txt in its order; without it, of the files in theirs."""
    path = source.first("Concepts81.txt")
    names = {concept for concept, _ in files}
    concepts = read_lines(source, path) if path else sorted(names)
    absent = [concept for concept in concepts if concept not in names]
    if absent or not concepts:
        raise UserError(
            f"{source.path} has no Labels_{absent[0] if absent else 'CONCEPT'}.txt, nor that of "
            f"{max(len(absent) - 1, 0)} other concepts: they are in Groundtruth.zip"
        )
    return concepts


def _all_tags(
    source: SourceFiles, files: dict[tuple[str, str | None], str], concepts: list[str]
) -> dict[str, list[int]]:
    """Image -> numbers of its concepts, by the list of all images."""
    names = _read_list(source, "Imagelist.txt")
    incomplete = [concept for concept in concepts if (concept, None) not in files]
    if incomplete or not names:
        missing = f"Labels_{incomplete[0]}.txt" if incomplete else "Imagelist.txt"
        raise UserError(f"{source.path} has no {missing}, and the labels by part are not complete")
    tags = _read_tags(source, [files[concept, None] for concept in concepts], names)
    return dict(zip(names, tags, strict=True))


def _look_up(tags_of_image: dict[str, list[int]], name: str, part: str) -> list[int]:
    if name not in tags_of_image:
        raise UserError(f"{part}Imagelist.txt has {name}, which Imagelist.txt does not have")
    return tags_of_image[name]


def _read_tags(source: SourceFiles, paths: list[str], names: list[str]) -> Iterator[list[int]]:
    """The numbers of each image's concepts, from a file a concept with 0 or 1 a line."""
    is_present = np.empty((len(names), len(paths)), bool)
    for number, path in enumerate(paths):
        values = read_text(source, path).split()
        if len(values) != len(names):
            raise UserError(
                f"{source.where(path)} has {len(values):,} lines, but its list has {len(names):,}: "
                "get it again"
            )
        invalid = set(values) - {"0", "1"}
        if invalid:
            raise UserError(f"{source.where(path)}: {min(invalid)!r} is neither 0 nor 1")
        is_present[:, number] = [value == "1" for value in values]
    return (np.flatnonzero(row).tolist() for row in is_present)


def _find_image(source: SourceFiles, name: str) -> str | None:
    """An image in the folder of its list, or by its own name or Flickr's number alone."""
    file = name.rpartition("/")[2]
    photo = file.rpartition("_")[2]
    return source.first(name, file, photo)
