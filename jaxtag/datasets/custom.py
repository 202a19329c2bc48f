"""A user's own images, with a table of captions or tags, or in a folder for each class."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtag.data.text import clean_names, clean_path
from jaxtag.datasets.annotation_tables import CAPTIONS, TAGS, Row, Table, is_table, read_table
from jaxtag.datasets.archives import is_archive
from jaxtag.datasets.base import ImageDatasetBuilder, Listing
from jaxtag.datasets.class_folders import list_class_folders
from jaxtag.datasets.layout import (
    IMAGE_SUFFIXES,
    SPLITS,
    UNREAD_SUFFIXES,
    is_image_name,
    split_and_rest,
    split_in_name,
)
from jaxtag.datasets.listings import CaptionListing, TagListing
from jaxtag.datasets.odd_entries import NotATableError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.splits import complete_splits
from jaxtag.errors import UserError

# Annotations that come beside captions in COCO's folders; objects are read where nothing else is.
_INSTANCES = "instances_"
_IGNORED = (
    *("person_keypoints_", "panoptic_", "stuff_", "image_info_"),
    *("sample_submission", "dataset-metadata.", "dataset_infos."),
)
# A table of tags that names fewer of the images in class folders is not what they are read by.
_MIN_COVERAGE = 0.5
_MAX_NEAR = 3


@dataclass(frozen=True)
class _TableFile:
    """A table: its path, the split of its folder or name, and the folder of its images."""

    path: str
    split: str | None = None
    folder: str = ""


class CustomDataset(ImageDatasetBuilder):
    """A user's own images with captions, tags or class labels.

    A table of captions or tags (COCO-style JSON, JSON-lines or CSV) lies at the top of the source,
    or in the folder of each split, or is the source itself; images may lie anywhere below. Splits
    come from a column `split`, from the names of several files (train.csv, val.csv) or of their
    folders, or are made: a tenth of the images, by a hash of their names, is `validation`; images
    of the same `group`, and of the same bytes, stay together. A column `unknown_tags` names tags
    that an image may have or not; losses and metrics mask them. Where a column `label` gives each
    image one tag, that is its class too. Without such a table images lie in a folder for each
    class, these in a folder for each split or not.
    """

    @classmethod
    @contextmanager
    def open_listing(cls, path: str | os.PathLike[str] | None) -> Iterator[Listing]:
        assert path is not None
        root, table = Path(path).expanduser(), None
        if root.is_file() and not is_archive(root.name):
            root, table = root.parent, root.name
        with SourceFiles(root, cls.accepts_archive) as source:
            if table:
                table_file = _TableFile(clean_path(table))
                listing = _list_tables(source, {table_file: read_table(source, table_file.path)})
            else:
                listing = cls.list_images(source)
            listing.problems += source.refused
            listing.warnings += source.warnings
            yield listing

    @classmethod
    def list_images(cls, source: SourceFiles) -> Listing:
        refused: list[NotATableError] = []
        tables = _read_tables(source, refused)
        folders = None
        if not tables or not _is_about_images(tables, source):
            folders = list_class_folders(source, strict=bool(tables or refused))
        if folders is None:
            if tables:
                return _list_tables(source, tables)
            if refused:
                raise refused[0]
            count = sum(map(is_image_name, source.names()))
            raise UserError(
                f"{source.path} has no file of captions or tags at its top, nor images in a "
                f"folder for each class ({count:,} images are there): put captions.csv "
                "(columns file and caption) or tags.csv (file and tags), the same as .jsonl, or a "
                "COCO-style .json beside them, or each into the folder of its class"
            )
        folders.problems += [
            tuple(str(error).split(": ", 1))  # type: ignore[misc]  # location, reason
            for error in refused
        ]
        for table in tables:
            folders.problems.append((table.path, "the folders of classes are used, not this table"))
            folders.warnings.append(
                f"{table.path} names few of the images, and the folders of classes are used: "
                f"--source={source.path / table.path} takes the table"
            )
        return folders


def custom_dataset(name: str) -> type[CustomDataset]:
    """The builder of own data under a name."""
    body = {"name": name, "__doc__": CustomDataset.__doc__, "__module__": __name__}
    return type("CustomDataset", (CustomDataset,), body)


def _read_tables(source: SourceFiles, refused: list[NotATableError]) -> dict[_TableFile, Table]:
    """Reads the tables at the top of the source or, without any, in the folders of its splits.

    Args:
        refused: Filled with the errors of files that are no tables of images.

    Raises:
        UserError: There are several that are no splits.
    """
    names = [name for name in source.names() if is_table(name)]
    base = _common_folder(source.names())
    at_top = [
        _TableFile(name)
        for name in names
        if name.removeprefix(base).removeprefix("annotations/").count("/") == 0
        and not _base_name(name).startswith(_IGNORED)
    ]
    is_instances = {table: _base_name(table.path).startswith(_INSTANCES) for table in at_top}
    tables = _readable(source, [table for table in at_top if not is_instances[table]], refused)
    tables = tables or _readable(source, [t for t in at_top if is_instances[t]], refused)
    if len(tables) > 1:
        splits = [split_in_name(table.path) for table in tables]
        if None in splits or len(set(splits)) < len(splits):
            raise UserError(
                f"{source.path} has several files that may hold captions or tags: "
                f"{', '.join(table.path for table in tables)}. Give one with --source=FILE, or "
                "name them after splits (train.csv, val.csv)"
            )
        tables = {
            _TableFile(table.path, split): content
            for (table, content), split in zip(tables.items(), splits, strict=True)
        }
    return tables or _read_split_tables(source, base, names, refused)


def _read_split_tables(
    source: SourceFiles, base: str, names: list[str], refused: list[NotATableError]
) -> dict[_TableFile, Table]:
    """Reads the tables in the folders of the splits, one each: train/captions.csv."""
    candidates: dict[str, list[_TableFile]] = {}
    for name in names:
        folder, _, file = name.removeprefix(base).partition("/")
        split, rest = split_and_rest(folder)
        if split and not rest and file and "/" not in file and not file.startswith(_IGNORED):
            candidates.setdefault(split, []).append(_TableFile(name, split, f"{base}{folder}/"))
    tables: dict[_TableFile, Table] = {}
    for split, files in candidates.items():
        readable = _readable(source, files, refused)
        if len(readable) > 1:
            raise UserError(
                f"{source.path} has several files of captions or tags in {split}: "
                f"{', '.join(table.path for table in readable)}: leave one"
            )
        tables |= readable
    return tables


def _readable(
    source: SourceFiles, files: list[_TableFile], refused: list[NotATableError]
) -> dict[_TableFile, Table]:
    tables = {}
    for file in files:
        try:
            tables[file] = read_table(source, file.path)
        except NotATableError as error:
            refused.append(error)
    return tables


def _common_folder(names: list[str]) -> str:
    """The single folder at the top, with a slash, or ""."""
    tops = {name.split("/")[0] for name in names if "/" in name}
    is_single = len(tops) == 1 and all("/" in name for name in names)
    return f"{tops.pop()}/" if is_single else ""


def _base_name(path: str) -> str:
    return path.rpartition("/")[2].lower()


def _is_about_images(tables: dict[_TableFile, Table], source: SourceFiles) -> bool:
    """Whether tables name as many images of the source that they and not folders are meant."""
    rows = [(file, row) for file, table in tables.items() for row in table.rows]
    located = {path for file, row in rows for path in _candidates(source, file, row.file)[:1]}
    if any(row.kind == CAPTIONS for _, row in rows):
        return bool(located)
    return len(located) >= _MIN_COVERAGE * sum(map(is_image_name, source.names()))


def _list_tables(source: SourceFiles, tables: dict[_TableFile, Table]) -> Listing:
    names = ", ".join(file.path for file in tables)
    rows = []
    for file, table in tables.items():
        for row in table.rows:
            row.split = row.split or (file.split if len(tables) > 1 else None)
            rows.append(_locate(source, file, row))
    rows = _merge_by_image(rows)
    variant = f"own data, {names}"
    if any(row.row.kind == TAGS for row in rows):
        categories = clean_names(name for table in tables.values() for name in table.names)
        listing = _list_tags(source, variant, rows, categories)
    else:
        listing = _list_captions(source, variant, rows)
    listing.problems[:0] = [problem for table in tables.values() for problem in table.problems]
    listing.warnings += [warning for table in tables.values() for warning in table.warnings]
    listing.finished()
    _report_unused(listing, source, rows, names)
    groups = {row.file: row.row.group for row in rows if row.row.group}
    has_splits = any(row.row.split for row in rows)
    if has_splits:
        _check_groups(rows)
    complete_splits(listing, source, groups, has_splits)
    if not has_splits:
        if groups and listing.splits and not listing.splits.get("validation"):
            raise UserError(
                f"{names}: all images are in one group, so that none can be held out "
                "for validation: leave the column group out, or give the split of each"
            )
        listing.variant += ", validation held out by " + ("group" if groups else "file name")
    return listing


@dataclass
class _LocatedRow:
    """A row, the path of its image in the source (None where it is missing), and its name."""

    row: Row
    path: str | None
    file: str


def _locate(source: SourceFiles, table: _TableFile, row: Row) -> _LocatedRow:
    paths = _candidates(source, table, row.file)
    if not paths:
        return _LocatedRow(row, None, row.file)
    shallowest = [path for path in paths if path.count("/") == paths[0].count("/")]
    if len(shallowest) > 1:
        raise UserError(
            f"{row.location}: {row.file} may be {' or '.join(shallowest[:_MAX_NEAR])}: "
            "write its folder before the name"
        )
    is_ending = not table.folder and (paths[0] == row.file or paths[0].endswith(f"/{row.file}"))
    return _LocatedRow(row, paths[0], row.file if is_ending else paths[0])


def _candidates(source: SourceFiles, table: _TableFile, file: str) -> list[str]:
    """The files that a table means: beside it, where it lies in the folder of a split."""
    beside = f"{table.folder}{file}"
    if table.folder and beside in source:
        return [beside]
    paths = source.locate(file)
    inside = [path for path in paths if table.folder and path.startswith(table.folder)]
    return inside or paths


def _report_unused(
    listing: Listing, source: SourceFiles, rows: list[_LocatedRow], names: str
) -> None:
    used = {row.path for row in rows}
    for name in source.names():
        if name.lower().endswith((*IMAGE_SUFFIXES, *UNREAD_SUFFIXES)) and name not in used:
            listing.problems.append((name, f"no entry of {names} names it"))


def _list_captions(source: SourceFiles, variant: str, rows: list[_LocatedRow]) -> Listing:
    listing = CaptionListing(variant)
    for located in rows:
        row, split = located.row, _split(located.row) or "train"
        image_id = row.image_id or located.file
        listing.add_captioned(source, split, located.path, located.file, image_id, row.texts)
    return listing


def _list_tags(
    source: SourceFiles, variant: str, rows: list[_LocatedRow], categories: list[str]
) -> Listing:
    """Tags are numbered as the file of categories has them, else in the order of their names.

    An image without any has none of them.
    """
    used = {tag for row in rows for tag in (*row.row.texts, *row.row.unknown)}
    names = [*categories, *sorted(used - set(categories))]
    if not categories and all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name[:99]), name))
    numbers = {name: number for number, name in enumerate(names)}
    has_label = bool(rows) and all(
        row.row.is_label and len(set(row.row.texts)) == 1 and not row.row.unknown for row in rows
    )
    listing = TagListing(variant, names, has_label)
    for located in rows:
        row, split = located.row, _split(located.row) or "train"
        tags, unknown = ([numbers[name] for name in texts] for texts in (row.texts, row.unknown))
        listing.add_tagged(source, split, located.path, located.file, tags, unknown, row.group)
    return listing


def _merge_by_image(rows: list[_LocatedRow]) -> list[_LocatedRow]:
    """One row an image, with all its captions or tags; in the order of first mention."""
    merged: dict[str, _LocatedRow] = {}
    for located in rows:
        row, kind, location = located.row, rows[0].row.kind, rows[0].row.location
        if row.kind != kind:
            raise UserError(f"{row.location} has {row.kind}, but {location} {kind}")
        first_located = merged.setdefault(located.path or located.file, located)
        first = first_located.row
        if first_located is located:
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


def _check_groups(rows: list[_LocatedRow]) -> None:
    """Raises UserError where the splits of the table part a group."""
    first_rows: dict[str, Row] = {}
    for row in (located.row for located in rows):
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
        shown = repr(row.split[:60])
        raise UserError(f"{row.location}: split {shown} is none of train, validation, test")
    return split
