"""Images in folders named after their class, below folders named after their split or not."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from jaxtag.data.text import clean_name, clean_names
from jaxtag.datasets.archives import ReadError, is_archive
from jaxtag.datasets.layout import (
    IMAGE_SUFFIXES,
    MAGIC_BYTES,
    SPLITS,
    UNREAD_SUFFIXES,
    is_image_name,
    split_and_rest,
    starts_like_image,
)
from jaxtag.datasets.listings import LabelListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.splits import complete_splits, doubt_classes
from jaxtag.datasets.text_files import read_lines

__all__ = ["IMAGE_SUFFIXES", "SPLITS", "list_class_folders"]

_DATE = re.compile(r"(19|20)\d\d([-_. ]?(0?[1-9]|1[0-2])([-_. ]?[0-3]?\d)?)?")
_GENERIC = re.compile(
    r"((img|image|photo|picture|label|mask|annotation|frame|batch|part|fold|split|crop|thumb)s?"
    r"|folder|archive|dir|camera|dcim|new|old|misc|unsorted|untitled)[-_ ]?\d*",
    re.IGNORECASE,
)
# Endings of files that are no images, so that nobody need look into them.
_TEXT_SUFFIXES = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml", ".xmp", ".md", ".html"),
    *(".yaml", ".yml", ".npy", ".npz", ".mat", ".py", ".ipynb", ".pkl", ".db", ".ini", ".url"),
    *(".mp4", ".mov", ".avi", ".mkv", ".m4v", ".3gp", ".aae", ".log", ".zip", ".tar", ".gz"),
)
_NO_IMAGE = "no image of a format that is read"


@dataclass
class _Layout:
    """Which files belong to which split and class.

    Attributes:
        files: (split, class, path below the base).
        outside: (path below the base, reason) of other files.
        splits: Whether folders name splits.
    """

    files: list[tuple[str, str, str]] = field(default_factory=list)
    outside: list[tuple[str, str]] = field(default_factory=list)
    splits: bool = False


def list_class_folders(
    source: SourceFiles, strict: bool = False, keep_splits: bool = False
) -> LabelListing | None:
    """Lists the images of `[SPLIT/]CLASS/…/FILE`, wherever in the source that begins.

    Classes are numbered in the order of their names. Folders are splits where they are called so
    (`train`, `seg_val`, `Test Set`) and hold class folders; what lies beside them is no class.
    Without a validation split, a tenth of the images, by a hash of their names, is `validation`.
    Files outside of class folders become problems.

    Args:
        strict: Other data lie there, too: list none where images lie beside the class folders.
        keep_splits: Hold nothing out where the folders name splits, which are official ones.

    Returns:
        None where there are fewer than two such folders.
    """
    base, images, others = _files(source)
    layout = _Layout()
    splits = _split_folders(images)
    if splits:
        layout.splits = True
        _list_splits(layout, source, base, images, splits)
    else:
        for file in images:
            _add(layout, "train", file, 0)
    classes = sorted(clean_names(name for _, name, _ in layout.files))
    if len(classes) < 2 or (strict and layout.outside and not layout.splits):
        return None
    listing = LabelListing("class folders", {"label": classes})
    numbers = {name: number for number, name in enumerate(classes)}
    for split, name, file in layout.files:
        cleaned = clean_name(name)
        if cleaned:
            fields = {"label": numbers[cleaned]}
            listing.add_stored(source, split, base + file, file, fields)
        else:
            listing.problems.append((file, "the folder of its class has no name"))
    listing.problems += layout.outside
    folders = {"/".join(file.split("/")[:-1]) for _, _, file in layout.files}
    for file, reason in others:
        if file.rpartition("/")[0] in folders or file.lower().endswith(UNREAD_SUFFIXES):
            listing.problems.append((file, reason))
    _doubt_dates(listing, classes)
    _warn_of_generic_names(listing, classes)
    if "train" in listing.splits:
        doubt_classes(listing)  # of the folders, not of what is held out by file name
    else:
        listing.doubts.append(f"there is no split train: only {', '.join(listing.splits)}")
    if not (keep_splits and layout.splits):
        complete_splits(listing, source, {}, layout.splits)
    if not layout.splits:
        listing.variant += ", validation held out by file name"
    return listing


def _add(layout: _Layout, split: str, file: str, depth: int) -> None:
    """Adds a file whose class is the folder at `depth` of its path."""
    parts = file.split("/")
    if len(parts) > depth + 1:
        layout.files.append((split, parts[depth], file))
    else:
        layout.outside.append((file, "it lies in no folder of a class"))


def _split_folders(images: list[str]) -> dict[str, str]:
    """Top folder -> the split that it is; empty where the top folders are no splits.

    A class may be called `train` (the vehicle): its images lie in it, those of a split in folders
    below.
    """
    below: dict[str, set[str]] = defaultdict(set)
    for file in images:
        top, _, rest = file.partition("/")
        if rest:
            below[top].add(rest.partition("/")[0] if "/" in rest else "")
    structured = {top for top, names in below.items() if names - {""}}
    exact = {top: SPLITS[top.lower()] for top in below if top.lower() in SPLITS}
    if "train" in {split for top, split in exact.items() if top in structured}:
        return exact
    if exact and len(exact) == len(below):
        return exact
    named = {top: split_and_rest(top) for top in below}
    splits = {top: split for top, (split, _) in named.items() if split}
    rests = {rest for top, (_, rest) in named.items() if top in splits}
    is_each_once = len(splits) > 1 and len(set(splits.values())) == len(splits)
    are_all = len(splits) == len(below) or any(top in structured for top in splits)
    is_clear = is_each_once and len(rests) == 1 and "train" in splits.values() and are_all
    return splits if is_clear else {}


def _list_splits(
    layout: _Layout, source: SourceFiles, base: str, images: list[str], splits: dict[str, str]
) -> None:
    """Lists the classes of each split folder."""
    of_top: dict[str, list[str]] = defaultdict(list)
    for file in images:
        top = file.partition("/")[0]
        if top in splits and "/" in file:
            of_top[top].append(file)
        else:
            layout.outside.append((file, "it lies in none of the folders of the splits"))
    trained: set[str] = set()
    for top in sorted(splits, key=lambda top: splits[top] != "train"):
        annotated = _read_annotations(source, base, top)
        depth = _depth_of_classes(of_top[top])
        for file in of_top[top]:
            name = file.rpartition("/")[2]
            if annotated:
                if name in annotated:
                    layout.files.append((splits[top], annotated[name], file))
                else:
                    layout.outside.append((file, "the list of annotations does not have it"))
            else:
                _add(layout, splits[top], file, depth)
        if splits[top] == "train":
            trained |= {clean_name(name) for split, name, _ in layout.files if split == "train"}
        elif not annotated and trained:
            _drop_unlabeled(layout, splits[top], trained)


def _drop_unlabeled(layout: _Layout, split: str, trained: set[str]) -> None:
    """Takes a folder of a split's images for what it is where it is no class: test/images."""
    names = {clean_name(name) for part, name, _ in layout.files if part == split}
    if len(names) == 1 and not names & trained and split_and_rest(*names) == (None, ""):
        layout.outside += [
            (file, f"it has no class: {split} has one folder for all images")
            for part, _, file in layout.files
            if part == split
        ]
        layout.files = [entry for entry in layout.files if entry[0] != split]


def _depth_of_classes(files: list[str]) -> int:
    """How many folders lie above those of the classes, as in seg_train/seg_train/CLASS."""
    depth = 1
    while True:
        below = [file.split("/")[depth:] for file in files]
        names = {parts[0] for parts in below if len(parts) > 1}
        if len(names) != 1 or not all(len(parts) > 2 for parts in below):
            return depth
        if len({parts[1] for parts in below}) < 2:  # a single class, whatever lies below
            return depth
        depth += 1


def _read_annotations(source: SourceFiles, base: str, top: str) -> dict[str, str]:
    """File name -> class, of `val/val_annotations.txt` as Tiny-ImageNet has it; or nothing."""
    path = f"{base}{top}/{top}_annotations.txt"
    if path not in source:
        return {}
    rows = (line.split("\t") for line in read_lines(source, path))
    return {fields[0].strip(): fields[1] for fields in rows if len(fields) > 1}


def _doubt_dates(listing: LabelListing, classes: list[str]) -> None:
    if all(_DATE.fullmatch(name) and len(name) <= 10 for name in classes):
        listing.doubts.append(
            f"the folders are called after dates ({', '.join(classes[:3])}, …), which is how "
            "archives are kept: put each image into the folder of its class, or write a table "
            "tags.csv (file,tags)"
        )


def _warn_of_generic_names(listing: LabelListing, classes: list[str]) -> None:
    """Folders that are called after parts of a data set hold no classes, in all likelihood."""
    generic = [name for name in classes if _GENERIC.fullmatch(name) or name.lower() in SPLITS]
    if generic and 2 * len(generic) >= len(classes):
        listing.warnings.append(
            f"the folders {', '.join(generic[:5])} are taken as classes, but their names are those "
            "of splits or parts: put each image into the folder of its class, or write a table "
            "tags.csv (file,tags)"
        )


def _files(source: SourceFiles) -> tuple[str, list[str], list[tuple[str, str]]]:
    """The folder that holds all class or split folders, the images below it, and other files.

    A file with no known ending is an image where its first bytes say so.
    """
    images: list[str] = []
    others: list[tuple[str, str]] = []
    for name in source.names():
        if is_image_name(name) or ("/" in name and _is_image(source, name)):
            images.append(name)
        elif is_archive(name) and "/" in name:
            others.append((name, "an archive below the top is not opened"))
        else:
            others.append((name, _NO_IMAGE))
    base = ""
    while True:
        tops = Counter(file.split("/")[0] for file in images)
        (top,) = tops if len(tops) == 1 else (None,)
        below = [file.removeprefix(f"{top}/") for file in images]
        if top is None or top.lower() in SPLITS or not any("/" in file for file in below):
            break
        base, images = f"{base}{top}/", below
    others = [(file.removeprefix(base), reason) for file, reason in others if file.startswith(base)]
    return base, images, others


def _is_image(source: SourceFiles, name: str) -> bool:
    if name.lower().endswith((*_TEXT_SUFFIXES, *UNREAD_SUFFIXES)):
        return False
    try:
        return starts_like_image(source.read_part(name, 0, MAGIC_BYTES))
    except ReadError:
        return False
