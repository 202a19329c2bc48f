"""Names of columns that tables of annotations have, and what they mean."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtag.datasets.annotations import CAPTIONS, TAGS
from jaxtag.datasets.layout import SPLITS
from jaxtag.datasets.odd_entries import NotATableError
from jaxtag.errors import UserError, nearest

# Accepted names of columns, the best first; an id names a file where nothing else does.
FILE = (
    *("file", "file_name", "filename", "filenames", "fname", "image", "image_path", "path"),
    *("file_path", "filepath", "filepaths", "image_name", "imagename", "image_file", "img"),
    *("img_path", "img_name", "picture", "photo"),
)
FILE_ID = ("image_id", "img_id", "id")
CAPTION = ("caption", "captions", "text")
MORE_CAPTION = ("comment", "sentence", "description", "alt_text")
TAG = ("tags", "tag", "labels", "label", "keywords")
MORE_TAG = (
    *("keyword", "classes", "class", "class_name", "classname", "category", "categories"),
    *("breed", "species", "label_name", "target", "attribute_ids", "choice", "choices"),
)
# Columns of which several values in one field, or several rows of an image, are to be expected.
MANY = ("tags", "tag", "keywords", "keyword", "attribute_ids", "target")
SPLIT = ("split", "data_set", "dataset", "subset", "partition", "fold")
VALIDATION = ("is_valid", "is_val", "is_validation")
GROUP = ("group",)
UNKNOWN = ("unknown_tags",)
INDEX = ("", "index", "unnamed:_0", "class_id", "label_id", "category_id", "comment_number")
PRESENT = ("1", "1.0", "true", "yes")
ABSENT = ("0", "0.0", "false", "no")
UNSURE = ("", "-1", "-1.0", "nan")


class TwoKindsError(UserError):
    """Captions and tags in one table."""


def column_name(name: object) -> str:
    """The name of a column as it is compared: `File Name` as `file_name`."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def column(columns: Iterable[Any], accepted: Sequence[str]) -> str | None:
    """The first accepted name that is there."""
    names = set(columns)
    return next((name for name in accepted if name in names), None)


def any_text_column(
    columns: Iterable[Any], location: str, kind: str | None = None, form: str = "table"
) -> str | None:
    """The column of captions or of tags, None without one.

    Args:
        kind: CAPTIONS or TAGS: which of them to take where both are there.
        form: Of the table, for messages.

    Raises:
        TwoKindsError: Both are there, and `kind` does not say which.
    """
    columns = list(columns)
    caption, tag = column(columns, CAPTION), column(columns, TAG)
    if caption and tag and kind is None:
        raise TwoKindsError(
            f"{location}: there are captions ({caption}) and tags ({tag}): say which with "
            f"--as={form}:{CAPTIONS} or --as={form}:{TAGS}, and make a data set of each"
        )
    any_tag = tag or column(columns, MORE_TAG)
    any_caption = caption or column(columns, MORE_CAPTION)
    if kind == CAPTIONS:
        return any_caption or any_tag
    return any_tag or any_caption if kind == TAGS else caption or any_tag or any_caption


def is_caption_column(name: str | None) -> bool:
    """Whether a column holds captions, by its name."""
    return name in CAPTION or name in MORE_CAPTION


def required_column(
    columns: Iterable[Any], accepted: Sequence[str], location: str, description: str
) -> str:
    """The first accepted name that is there; otherwise the error names those near to one."""
    columns = list(columns)
    name = column(columns, accepted)
    if name is not None:
        return name
    near = [
        f"{name!r} (did you mean {match!r}?)"
        for name in columns
        if (match := nearest(str(name).lower(), accepted, 0.6))
    ]
    present = ", ".join(near) or ", ".join(map(repr, columns)) or "nothing"
    # A misspelled column is one of a table; a file without anything near is something else.
    error = UserError if near else NotATableError
    raise error(f"{location}: no column {description}; there is {present}")


def split_of(entry: Mapping[str, Any]) -> str | None:
    """The split as written; columns that only may name splits count where they do."""
    validation = column(entry, VALIDATION)
    if validation is not None:
        return "validation" if str(entry[validation]).strip().lower() in PRESENT else "train"
    name = column(entry, SPLIT)
    value = entry[name] if name is not None else None
    is_meant = name == "split" or str(value).strip().lower() in SPLITS
    return (value or None) if is_meant else None
