"""A user's own images, with a table of captions or tags, or in a folder for each class."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxtag.datasets.annotation_tables import TAGS, Row, is_table, read_table
from jaxtag.datasets.archives import SourceFiles, is_archive
from jaxtag.datasets.base import ImageDatasetBuilder, Listing, hold_out
from jaxtag.datasets.class_folders import IMAGE_SUFFIXES, SPLITS, list_class_folders
from jaxtag.datasets.listings import CaptionListing, TagListing
from jaxtag.errors import UserError

# Annotations that come beside captions in COCO's folders; objects are read where nothing else is.
_INSTANCES = "instances_"
_IGNORED = ("person_keypoints_", "panoptic_", "stuff_", "image_info_")


class CustomDataset(ImageDatasetBuilder):
    """A user's own images with captions, tags or class labels.

    A table of captions or tags (COCO-style JSON, JSON-lines or CSV) lies at the top of the source,
    or is the source itself; images may lie anywhere below. Splits come from a column `split`,
    from the names of several files (train.csv, val.csv), or are made: a tenth of the images, by
    a hash of their names, is `validation`; images of the same `group` stay together. A column
    `unknown_tags` names tags that an image may have or not; losses and metrics mask them. Without
    such a table images lie in a folder for each class, these in a folder for each split or not.
    """

    @classmethod
    @contextmanager
    def open_listing(cls, path: str | os.PathLike[str] | None) -> Iterator[Listing]:
        assert path is not None
        root, table = Path(path).expanduser(), None
        if root.is_file() and not is_archive(root.name):
            root, table = root.parent, root.name
        with SourceFiles(root, cls.accepts_archive) as source:
            listing = _list_tables(source, [table]) if table else cls.list_images(source)
            listing.problems += source.refused
            yield listing

    @classmethod
    def list_images(cls, source: SourceFiles) -> Listing:
        tables = _find_tables(source)
        if tables:
            return _list_tables(source, tables)
        listing = list_class_folders(source)
        if listing is None:
            count = sum(name.lower().endswith(IMAGE_SUFFIXES) for name in source.names())
            raise UserError(
                f"{source.path} has no file of captions or tags at its top, nor images in a "
                f"folder for each class ({count:,} images are there): put captions.csv "
                "(columns file and caption) or tags.csv (file and tags), the same as .jsonl, or a "
                "COCO-style .json beside them, or each into the folder of its class"
            )
        return listing


def custom_dataset(name: str) -> type[CustomDataset]:
    """The builder of own data under a name."""
    body = {"name": name, "__doc__": CustomDataset.__doc__, "__module__": __name__}
    return type("CustomDataset", (CustomDataset,), body)


def _find_tables(source: SourceFiles) -> list[str]:
    """Finds the tables at the top of the source (or of its single folder) or in annotations/.

    Raises:
        UserError: There are several that are no splits.
    """
    names = [name for name in source.names() if is_table(name)]
    tops = {name.split("/")[0] for name in source.names()}
    base = f"{tops.pop()}/" if len(tops) == 1 else ""
    tables = [
        name
        for name in names
        if name.removeprefix(base).removeprefix("annotations/").count("/") == 0
        and not name.rpartition("/")[2].startswith(_IGNORED)
    ]
    instances = [name for name in tables if name.rpartition("/")[2].startswith(_INSTANCES)]
    tables = [name for name in tables if name not in instances] or instances
    if len(tables) > 1:
        splits = [_split_in_name(name) for name in tables]
        if None in splits or len(set(splits)) < len(splits):
            raise UserError(
                f"{source.path} has several files that may hold captions or tags: "
                f"{', '.join(tables)}. Give one with --source=FILE, or name them after splits "
                "(train.csv, val.csv)"
            )
    return tables


def _list_tables(source: SourceFiles, tables: list[str]) -> Listing:
    problems: list[tuple[str, str]] = []
    rows = []
    for table in tables:
        split = _split_in_name(table) if len(tables) > 1 else None
        for row in read_table(source, table, problems):
            row.split = row.split or split
            rows.append(row)
    rows = _merge_by_image(rows)
    variant = f"own data, {', '.join(tables)}"
    has_tags = bool(rows) and rows[0].kind == TAGS
    list_rows = _list_tags if has_tags else _list_captions
    listing = list_rows(source, variant, rows)
    listing.problems[:0] = problems
    listing.finished()
    groups = {row.file: row.group for row in rows if row.group}
    if any(row.split for row in rows):
        _check_groups(rows)
    else:
        listing.splits = hold_out(listing.splits.get("train", []), groups=groups)
        if groups and not listing.splits["validation"]:
            raise UserError(
                f"{', '.join(tables)}: all images are in one group, so that none can be held out "
                "for validation: leave the column group out, or give the split of each"
            )
        listing.variant += ", validation held out by " + ("group" if groups else "file name")
    return listing


def _list_captions(source: SourceFiles, variant: str, rows: list[Row]) -> Listing:
    listing = CaptionListing(variant)
    for row in rows:
        split, path = _split(row) or "train", _find_image(source, row)
        listing.add_captioned(source, split, path, row.file, row.image_id or row.file, row.texts)
    return listing


def _list_tags(source: SourceFiles, variant: str, rows: list[Row]) -> Listing:
    """Tags are numbered in the order of their names; an image without any has none of them."""
    names = sorted({tag for row in rows for tag in (*row.texts, *row.unknown)})
    numbers = {name: number for number, name in enumerate(names)}
    listing = TagListing(variant, names)
    for row in rows:
        split, path = _split(row) or "train", _find_image(source, row)
        tags, unknown = ([numbers[name] for name in texts] for texts in (row.texts, row.unknown))
        listing.add_tagged(source, split, path, row.file, tags, unknown, row.group)
    return listing


def _merge_by_image(rows: list[Row]) -> list[Row]:
    """One row an image, with all its captions or tags; in the order of first mention."""
    merged: dict[str, Row] = {}
    for row in rows:
        if row.kind != rows[0].kind:
            raise UserError(f"{row.location} has {row.kind}, but {rows[0].location} {rows[0].kind}")
        first = merged.setdefault(row.file, row)
        if first is row:
            continue
        if _split(row) != _split(first):
            raise UserError(
                f"{row.location}: {row.file} is in split {row.split or 'train'!r}, but in "
                f"{first.split or 'train'!r} in {first.location}: one image, one split"
            )
        if row.group != first.group:
            raise UserError(
                f"{row.location}: {row.file} is in group {row.group!r}, but in {first.group!r} in "
                f"{first.location}: one image, one group"
            )
        first.texts.extend(row.texts)
        first.unknown.extend(row.unknown)
    return list(merged.values())


def _check_groups(rows: list[Row]) -> None:
    """Raises UserError where the splits of the table part a group."""
    first_rows: dict[str, Row] = {}
    for row in rows:
        first = first_rows.setdefault(row.group, row) if row.group else row
        if _split(row) != _split(first):
            raise UserError(
                f"{row.location}: group {row.group!r} is in split {row.split or 'train'!r}, but in "
                f"{first.split or 'train'!r} in {first.location}: one group, one split"
            )


def _split(row: Row) -> str | None:
    if not row.split:
        return None
    split = SPLITS.get(row.split.strip().lower())
    if split is None:
        raise UserError(f"{row.location}: split {row.split!r} is none of train, validation, test")
    return split


def _split_in_name(table: str) -> str | None:
    """The split that a file name mentions: captions_train2017.json, val.csv."""
    stem = table.rpartition("/")[2].partition(".")[0].lower()
    words = "".join(c if c.isalpha() else " " for c in stem).split()
    splits = {SPLITS[word] for word in words if word in SPLITS}
    return splits.pop() if len(splits) == 1 else None


def _find_image(source: SourceFiles, row: Row) -> str | None:
    """The image's path; UserError where the name fits several equally well."""
    paths = source.find(row.file)
    if len(paths) < 2:
        return paths[0] if paths else None
    shallowest = [path for path in paths if path.count("/") == paths[0].count("/")]
    if len(shallowest) > 1:
        raise UserError(
            f"{row.location}: {row.file} may be {' or '.join(shallowest[:3])}: "
            "write its folder before the name"
        )
    return paths[0]
