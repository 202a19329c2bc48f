"""A user's own pictures, with a table of captions or tags, or in a folder for each class."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxtag.datasets.annotation_tables import TAGS, Row, is_table, read_table
from jaxtag.datasets.archives import Store, is_archive
from jaxtag.datasets.base import ImageDatasetBuilder, Listing, hold_out
from jaxtag.datasets.captioned import CaptionListing
from jaxtag.datasets.class_folders import PICTURES, SPLITS, list_class_folders
from jaxtag.datasets.tagged import TagListing
from jaxtag.errors import UserError

# Annotations that come beside captions in COCO's folders; objects are taken where nothing else is.
_OBJECTS = "instances_"
_OTHERS = ("person_keypoints_", "panoptic_", "stuff_", "image_info_")


class CustomDataset(ImageDatasetBuilder):
    """A user's own pictures with captions, tags or class labels.

    A table of captions or tags (COCO-style JSON, JSON-lines or CSV) lies at the top of the source,
    or is the source itself; pictures may lie anywhere below. Splits come from a column `split`,
    from the names of several files (train.csv, val.csv), or are made: a tenth of the pictures, by
    a hash of their names, is `validation`; pictures of the same `group` stay together. A column
    `unknown_tags` names tags that a picture may have or not: they count for nothing. Without
    such a table pictures lie in a folder for each class, these in a folder for each split or not.
    """

    @classmethod
    @contextmanager
    def opened(cls, source: str) -> Iterator[Listing]:
        path = Path(source).expanduser()
        only = None
        if path.is_file() and not is_archive(path.name):
            path, only = path.parent, path.name
        with Store(path, cls.wanted) as store:
            listing = _listed(store, [only]) if only else cls.list_pictures(store)
            listing.problems += store.refused
            yield listing

    @classmethod
    def list_pictures(cls, store: Store) -> Listing:
        tables = _tables(store)
        listing = _listed(store, tables) if tables else list_class_folders(store)
        if listing is None:
            pictures = sum(name.lower().endswith(PICTURES) for name in store.names())
            raise UserError(
                f"{store.path} has no file of captions or tags at its top, nor pictures in a "
                f"folder for each class ({pictures:,} pictures are there): put captions.csv "
                "(columns file and caption) or tags.csv (file and tags), the same as .jsonl, or a "
                "COCO-style .json beside them, or each into the folder of its class"
            )
        return listing


def custom_dataset(name: str) -> type[CustomDataset]:
    """The builder of own data under a name."""
    body = {"name": name, "__doc__": CustomDataset.__doc__, "__module__": __name__}
    return type("OwnPictures", (CustomDataset,), body, skip_registration=True)


def _tables(store: Store) -> list[str]:
    """The tables at the top of the source (or of its single folder) or in annotations/.

    Raises:
        UserError: there are several that are no splits.
    """
    names = [name for name in store.names() if is_table(name)]
    tops = {name.split("/")[0] for name in store.names()}
    base = f"{tops.pop()}/" if len(tops) == 1 else ""
    found = [
        name
        for name in names
        if name.removeprefix(base).removeprefix("annotations/").count("/") == 0
        and not name.rpartition("/")[2].startswith(_OTHERS)
    ]
    objects = [name for name in found if name.rpartition("/")[2].startswith(_OBJECTS)]
    found = [name for name in found if name not in objects] or objects
    if len(found) > 1:
        splits = [_split_of_name(name) for name in found]
        if None in splits or len(set(splits)) < len(splits):
            raise UserError(
                f"{store.path} has several files that may hold captions or tags: "
                f"{', '.join(found)}. Give one with --source=FILE, or name them after splits "
                "(train.csv, val.csv)"
            )
    return found


def _listed(store: Store, tables: list[str]) -> Listing:
    problems: list[tuple[str, str]] = []
    rows = []
    for table in tables:
        split = _split_of_name(table) if len(tables) > 1 else None
        for row in read_table(store, table, problems):
            row.split = row.split or split
            rows.append(row)
    pictures = _by_picture(rows)
    variant = f"own data, {', '.join(tables)}"
    tagged = bool(rows) and rows[0].kind == TAGS
    listing = (_tagged if tagged else _captioned)(store, variant, pictures)
    listing.problems[:0] = problems
    listing.finished()
    groups = {row.file: row.group for row in pictures if row.group}
    if any(row.split for row in pictures):
        _check_groups(pictures)
    else:
        listing.splits = hold_out(listing.splits.get("train", []), groups=groups)
        if groups and not listing.splits["validation"]:
            raise UserError(
                f"{', '.join(tables)}: all pictures are in one group, so that none can be held out "
                "for validation: leave the column group out, or say the split of each"
            )
        listing.variant += ", validation held out by " + ("group" if groups else "file name")
    return listing


def _captioned(store: Store, variant: str, pictures: list[Row]) -> CaptionListing:
    listing = CaptionListing(variant)
    for row in pictures:
        split, path = _split(row) or "train", _find(store, row)
        listing.add_captioned(store, split, path, row.file, row.image_id or row.file, row.texts)
    return listing


def _tagged(store: Store, variant: str, pictures: list[Row]) -> TagListing:
    """Tags are numbered in the order of their names; a picture without any has none of them."""
    names = sorted({tag for row in pictures for tag in (*row.texts, *row.unknown)})
    numbers = {name: number for number, name in enumerate(names)}
    listing = TagListing(variant, names)
    for row in pictures:
        split, path = _split(row) or "train", _find(store, row)
        tags, unknown = ([numbers[name] for name in part] for part in (row.texts, row.unknown))
        listing.add_tagged(store, split, path, row.file, tags, unknown, row.group)
    return listing


def _by_picture(rows: list[Row]) -> list[Row]:
    """One row a picture, with all its captions or tags; in the order of first mention."""
    pictures: dict[str, Row] = {}
    for row in rows:
        if row.kind != rows[0].kind:
            raise UserError(f"{row.place} has {row.kind}, but {rows[0].place} {rows[0].kind}")
        first = pictures.setdefault(row.file, row)
        if first is row:
            continue
        if _split(row) != _split(first):
            raise UserError(
                f"{row.place}: {row.file} is in split {row.split or 'train'!r}, but in "
                f"{first.split or 'train'!r} in {first.place}: one picture, one split"
            )
        if row.group != first.group:
            raise UserError(
                f"{row.place}: {row.file} is in group {row.group!r}, but in {first.group!r} in "
                f"{first.place}: one picture, one group"
            )
        first.texts.extend(row.texts)
        first.unknown.extend(row.unknown)
    return list(pictures.values())


def _check_groups(pictures: list[Row]) -> None:
    """UserError where the splits of the table part a group."""
    seen: dict[str, Row] = {}
    for row in pictures:
        first = seen.setdefault(row.group, row) if row.group else row
        if _split(row) != _split(first):
            raise UserError(
                f"{row.place}: group {row.group!r} is in split {row.split or 'train'!r}, but in "
                f"{first.split or 'train'!r} in {first.place}: one group, one split"
            )


def _split(row: Row) -> str | None:
    if not row.split:
        return None
    split = SPLITS.get(row.split.strip().lower())
    if split is None:
        raise UserError(f"{row.place}: split {row.split!r} is none of train, validation, test")
    return split


def _split_of_name(table: str) -> str | None:
    """The split that a file name speaks of: captions_train2017.json, val.csv."""
    stem = table.rpartition("/")[2].partition(".")[0].lower()
    words = "".join(c if c.isalpha() else " " for c in stem).split()
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def _find(store: Store, row: Row) -> str | None:
    """The picture's path; UserError where the name fits several equally well."""
    found = store.find(row.file)
    if len(found) < 2:
        return found[0] if found else None
    shallowest = [name for name in found if name.count("/") == found[0].count("/")]
    if len(shallowest) > 1:
        raise UserError(
            f"{row.place}: {row.file} may be {' or '.join(shallowest[:3])}: "
            "write its folder before the name"
        )
    return found[0]
