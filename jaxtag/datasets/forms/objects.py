"""Lists of objects such as {"file": "a.jpg", "tags": ["sea"]}: JSON, or a line each.

Hugging Face's imagefolder has them as metadata.jsonl ("file_name" and "text", "label" or
"objects"; https://huggingface.co/docs/datasets/image_dataset), jaxtag.annotate writes them.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from jaxtag.data.text import clean_name
from jaxtag.datasets.annotations import CAPTIONS, TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.forms.base import JsonForm
from jaxtag.datasets.odd_entries import NotATableError, OddEntries
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.table_columns import (
    CAPTION,
    FILE,
    FILE_ID,
    GROUP,
    MANY,
    TAG,
    UNKNOWN,
    TwoKindsError,
    any_text_column,
    column,
    column_name,
    is_caption_column,
    required_column,
    split_of,
)
from jaxtag.datasets.text_files import parse_json, read_text
from jaxtag.errors import UserError

# Of a field "objects": the names or numbers of what is seen in the image, one an object.
_OBJECT_NAMES = ("category", "categories", "label", "labels", "name", "names")


def read_json_lines(source: SourceFiles, name: str, kind: str | None = None) -> Table:
    """Reads a JSON-lines file."""
    return read_objects(_lines(source, name), kind)


def _lines(source: SourceFiles, name: str) -> Iterator[tuple[str, object]]:
    """(location, value) of each line of a JSON-lines file; the error of one that is no JSON."""
    where = source.where(name)
    # Not splitlines(): that also splits at characters that are allowed inside of JSON strings.
    for number, line in enumerate(read_text(source, name).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except (json.JSONDecodeError, RecursionError) as error:
            value = error
        yield f"{where}, line {number}", value


def read_objects(entries: Iterable[tuple[str, object]], kind: str | None = None) -> Table:
    """Reads (location, entry) of entries such as {"file": "a.jpg", "caption": "…"}."""
    table, odd = Table(), OddEntries()
    for location, entry in entries:
        has_error = isinstance(entry, dict) and entry.get("error")
        if isinstance(entry, dict) and has_error and not column(entry, CAPTION + TAG):
            table.problems.append((location, f"without annotations: {entry['error']}"))
            continue  # an image that jaxtag.annotate could not read
        try:
            row, reason = _row_of_object(entry, location, kind)
        except TwoKindsError:
            raise
        except UserError as error:
            odd.add(location, str(error).removeprefix(f"{location}: "))
            continue
        table.rows.append(row)
        if reason:
            table.problems.append((location, reason))
    odd.report(len(table.rows), table.problems)
    return table


def _row_of_object(entry: object, location: str, kind: str | None) -> tuple[Row, str]:
    """The row of an object, and what of it cannot be used ("" where all can).

    Raises:
        NotATableError: It cannot be used at all.
    """
    if isinstance(entry, Exception):
        raise NotATableError(f"{location}: no JSON: {entry}")
    if not isinstance(entry, dict):
        raise NotATableError(f'{location}: not an object like {{"file": "a.jpg", "caption": "…"}}')
    entry = {column_name(name): value for name, value in entry.items()}
    file_name = required_column(entry, FILE + FILE_ID, location, "'file'")
    text_name = any_text_column(entry, location, kind) or _objects_column(entry)
    if text_name is None:
        text_name = required_column(entry, CAPTION + TAG, location, "'caption' or 'tags'")
    if isinstance(entry[file_name], int) and not isinstance(entry[file_name], bool):
        entry[file_name] = str(entry[file_name])
    if not isinstance(entry[file_name], str):
        raise NotATableError(f'{location}: "{file_name}" is not a text')
    for name in ("split", *GROUP):
        if not isinstance(entry.get(name, ""), str | None):
            raise NotATableError(f'{location}: "{name}" is not a text')
    texts, reason = _texts(entry, text_name, location)
    unknown_name = column(entry, UNKNOWN)
    unknown: list[str] = []
    if unknown_name is not None and entry[unknown_name] is not None:
        unknown, unknown_reason = _texts(entry, unknown_name, location)
        reason = reason or unknown_reason
    file = clean_file(entry[file_name])
    if not file:
        raise NotATableError(f"{location}: the name of the image is empty")
    is_caption = is_caption_column(text_name)
    is_one = not isinstance(entry[text_name], list | dict)
    row = Row(
        location,
        file,
        CAPTIONS if is_caption else TAGS,
        texts if is_caption else clean_tags(texts),
        split_of(entry),
        clean_name(entry.get("group") or ""),
        clean_tags(unknown),
        is_label=not is_caption and text_name not in MANY and is_one,
    )
    return row, reason


def _objects_column(entry: dict[str, Any]) -> str | None:
    """ "objects", where that field holds names of what is seen."""
    objects = entry.get("objects")
    return "objects" if isinstance(objects, dict) and column(objects, _OBJECT_NAMES) else None


def _texts(entry: dict[str, Any], name: str, location: str) -> tuple[list[str], str]:
    """The texts of a field, and the reason against those that are none; numbers name classes."""
    value = entry[name]
    if name == "objects":
        value = value[column(value, _OBJECT_NAMES)]
    values = value if isinstance(value, list) else [value]
    # As jaxtag.annotate writes them: {"tag": "dog", "score": 0.9}.
    values = [item["tag"] if isinstance(item, dict) and "tag" in item else item for item in values]
    is_caption = is_caption_column(name)
    texts = [
        str(text)
        for text in values
        if isinstance(text, str)
        or (isinstance(text, int) and not isinstance(text, bool) and not is_caption)
    ]
    if len(texts) == len(values):
        return texts, ""
    reason = f'"{name}" is neither a text nor a list of texts'
    if not texts:
        raise NotATableError(f"{location}: {reason}")
    return texts, f"{reason}: what is one is used"


def _read(content: Any, where: str, kind: str | None) -> Table:
    return read_objects(((f"{where}, entry {n}", entry) for n, entry in enumerate(content)), kind)


FORM = JsonForm("table", "a table", lambda content: isinstance(content, list), _read)
