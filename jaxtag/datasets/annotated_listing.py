"""Rows of annotations to the listing of their images: located, merged by image, split."""

import re
from dataclasses import dataclass

from jaxtag.data.text import clean_names
from jaxtag.datasets.annotations import TAGS, Row, Table
from jaxtag.datasets.base import Listing
from jaxtag.datasets.layout import IMAGE_SUFFIXES, SPLITS, UNREAD_SUFFIXES
from jaxtag.datasets.listings import CaptionListing, TagListing
from jaxtag.datasets.odd_entries import OddEntries
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.splits import complete_splits, doubt_classes
from jaxtag.errors import UserError

_MAX_NEAR = 3
# Label Studio puts a hash before the names of files that are uploaded.
_UPLOADED = re.compile(r"(?:^|(?<=/))[0-9a-f]{8}-(?=[^/]+$)")


@dataclass(slots=True)
class _LocatedRow:
    """A row, and the name of its image in the record."""

    row: Row
    file: str


def list_tables(source: SourceFiles, tables: list[Table], variant: str) -> Listing:
    """Lists the images that the rows of tables name, with the annotations of all their rows.

    Args:
        variant: Of the listing, for people.

    Raises:
        UserError: Rows contradict each other: two splits or groups of an image; too many cannot be
            used.
    """
    names = ", ".join(table.path for table in tables)
    problems = [problem for table in tables for problem in table.problems]
    warnings = [warning for table in tables for warning in table.warnings]
    rows = _merge_by_image(_located(source, tables, problems))
    if any(row.row.kind == TAGS for row in rows):
        categories = clean_names(name for table in tables for name in table.names)
        listing = _list_tags(source, variant, rows, categories)
    else:
        listing = _list_captions(source, variant, rows)
    listing.problems[:0] = problems
    listing.warnings += warnings
    listing.finished()
    _report_unused(listing, source, rows, names)
    groups = {row.file: row.row.group for row in rows if row.row.group}
    has_splits = any(row.row.split for row in rows)
    if has_splits:
        _check_groups(rows)
    if has_splits:
        doubt_classes(listing)
    complete_splits(listing, source, groups, has_splits)
    if not has_splits:
        if groups and listing.splits and not listing.splits.get("validation"):
            raise UserError(
                f"{names}: all images are in one group, so that none can be held out "
                "for validation: leave the column group out, or give the split of each"
            )
        listing.variant += ", validation held out by " + ("group" if groups else "file name")
    return listing


def count_located(source: SourceFiles, tables: list[Table]) -> int:
    """The number of images of the source that tables name."""
    for table in tables:
        _locate_rows(source, table)
    return len({row.path for table in tables for row in table.rows} - {None})


def _locate_rows(source: SourceFiles, table: Table) -> None:
    """Looks for the images of a table, once."""
    if table.is_located:
        return
    table.is_located = True
    rows = []
    for row in table.rows:
        if row.path is None:
            paths = _candidates(source, table, row.file)
            shallowest = [path for path in paths if path.count("/") == paths[0].count("/")]
            if len(shallowest) > 1:
                places = " or ".join(shallowest[:_MAX_NEAR])
                reason = f"{row.file} may be {places}: write its folder before the name"
                table.doubtful.append((row.location, reason))
                continue
            row.path = paths[0] if paths else None
        rows.append(row)
    table.rows = rows


def _located(
    source: SourceFiles, tables: list[Table], problems: list[tuple[str, str]]
) -> list[_LocatedRow]:
    """The rows with their images; those that may mean several images go to the problems."""
    located = []
    for table in tables:
        _locate_rows(source, table)
        OddEntries(table.doubtful).report(len(table.rows), problems)
        for row in table.rows:
            row.split = row.split or (table.split if len(tables) > 1 else None)
            located.append(_LocatedRow(row, _name(table, row.file, row.path)))
        table.rows = []  # of millions of rows only one copy is kept
    return located


def _name(table: Table, file: str, path: str | None) -> str:
    """The name of an image in its record: as the table has it, where that is an ending of it."""
    if path is None:
        return file
    is_ending = not table.folder and (path == file or path.endswith(f"/{file}"))
    return file if is_ending else path


def _candidates(source: SourceFiles, table: Table, file: str) -> list[str]:
    """The files that a table means: beside it, where it lies in the folder of a split."""
    beside = f"{table.folder}{file}"
    if table.folder and beside in source:
        return [beside]
    paths = source.locate(file) or source.locate(_UPLOADED.sub("", file))
    inside = [path for path in paths if table.folder and path.startswith(table.folder)]
    return inside or paths


def _report_unused(
    listing: Listing, source: SourceFiles, rows: list[_LocatedRow], names: str
) -> None:
    used = {row.row.path for row in rows}
    for name in source.names():
        if name.lower().endswith((*IMAGE_SUFFIXES, *UNREAD_SUFFIXES)) and name not in used:
            listing.problems.append((name, f"no entry of {names} names it"))


def _list_captions(source: SourceFiles, variant: str, rows: list[_LocatedRow]) -> Listing:
    listing = CaptionListing(variant)
    for located in rows:
        row, split = located.row, _split(located.row) or "train"
        image_id = row.image_id or located.file
        listing.add_captioned(source, split, row.path, located.file, image_id, row.texts)
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
        listing.add_tagged(source, split, row.path, located.file, tags, unknown, row.group)
    return listing


def _merge_by_image(rows: list[_LocatedRow]) -> list[_LocatedRow]:
    """One row an image, with all its captions or tags; in the order of first mention."""
    merged: dict[str, _LocatedRow] = {}
    for located in rows:
        row, kind, location = located.row, rows[0].row.kind, rows[0].row.location
        if row.kind != kind:
            raise UserError(f"{row.location} has {row.kind}, but {location} {kind}")
        first_located = merged.setdefault(row.path or located.file, located)
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
        if row.unknown:
            first.unknown = [*first.unknown, *row.unknown]
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
