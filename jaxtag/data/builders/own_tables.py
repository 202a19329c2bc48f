"""Files of captions that users write: CSV, JSON-lines, COCO-style JSON. All become `Row`s."""

import csv
import difflib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

from jaxtag.data.archives import Store
from jaxtag.data.builders.coco_json import read_coco_json, read_json, read_text
from jaxtag.errors import UserError

_FILE = ("file", "file_name", "filename", "image", "image_path", "path")
_CAPTION = ("caption", "captions", "text")
_SPLIT = ("split",)
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
csv.field_size_limit(1 << 24)


@dataclass
class Row:
    """One entry: `place` names file and line for messages; `split` as written, or None."""

    place: str
    file: str
    captions: list[str]
    split: str | None = None
    image_id: str | None = None


def is_table(name: str) -> bool:
    """Whether a file name may be one of captions."""
    return name.lower().endswith(_TABLES)


def read_table(store: Store, name: str, problems: list[tuple[str, str]]) -> Iterator[Row]:
    """The rows of a file of captions, by the ending of its name.

    Raises:
        UserError: it is malformed; names the file, the line and, for columns, the nearest name.
    """
    ending = name.lower().rpartition(".")[2]
    if ending in ("csv", "tsv", "txt"):
        return _csv(store, name, "\t" if ending == "tsv" else None)
    if ending in ("jsonl", "ndjson"):
        return _json_lines(store, name)
    if ending == "json":
        return _json(store, name, problems)
    raise UserError(f"{store.where(name)}: captions are read from .csv, .tsv, .jsonl and .json")


def _csv(store: Store, name: str, delimiter: str | None) -> Iterator[Row]:
    where = store.where(name)
    text = read_text(store, name)
    header_line = text.partition("\n")[0]
    if delimiter is None:  # spreadsheets of some languages write semicolons
        delimiter = max(",;\t", key=header_line.count)
    # `strict` makes an unclosed quote an error instead of one caption of a thousand lines.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        file, caption = _column(header, _FILE, where), _column(header, _CAPTION, where)
        split = _column(header, _SPLIT, where, needed=False)
        for fields in reader:
            place = f"{where}, line {reader.line_num}"
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{place}: {len(fields)} fields, but {len(header)} columns "
                    f"({', '.join(header)}): put captions with a {delimiter!r} in double quotes"
                )
            row = dict(zip(header, fields, strict=True))
            yield Row(place, _path(row[file], place), [row[caption]], row.get(split) or None)
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}") from error


def _json_lines(store: Store, name: str) -> Iterator[Row]:
    where = store.where(name)
    # Not splitlines(): that also parts at characters that are allowed inside of JSON strings.
    for number, line in enumerate(read_text(store, name).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}, line {number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{place}: no JSON: {error}") from error
        yield _row(entry, place)


def _json(store: Store, name: str, problems: list[tuple[str, str]]) -> Iterator[Row]:
    """COCO's form, or a list of objects as in JSON-lines."""
    where = store.where(name)
    content = read_json(store, name)
    if isinstance(content, list):
        for number, entry in enumerate(content):
            yield _row(entry, f"{where}, entry {number}")
        return
    for image in read_coco_json(store, name, problems):
        place = f"{where}, image {image.id}"
        yield Row(place, _path(image.file, place), image.captions, None, image.id)


def _row(entry: object, place: str) -> Row:
    if not isinstance(entry, dict):
        raise UserError(f'{place}: not an object like {{"file": "a.jpg", "caption": "…"}}')
    file, caption = _column(entry, _FILE, place), _column(entry, _CAPTION, place)
    split = _column(entry, _SPLIT, place, needed=False)
    captions = entry[caption] if isinstance(entry[caption], list) else [entry[caption]]
    if not all(isinstance(text, str) for text in captions):
        raise UserError(f'{place}: "{caption}" is neither a text nor a list of texts')
    if not isinstance(entry[file], str):
        raise UserError(f'{place}: "{file}" is not a text')
    chosen = entry.get(split)
    if chosen is not None and not isinstance(chosen, str):
        raise UserError(f'{place}: "split" is not a text')
    return Row(place, _path(entry[file], place), list(captions), chosen)


def _column(present, accepted: tuple[str, ...], place: str, needed: bool = True) -> str | None:
    """The first accepted name that is there; otherwise the error says what is near it."""
    for name in accepted:
        if name in present:
            return name
    if not needed:
        return None
    near = [
        f"{column!r} (did you mean {match[0]!r}?)"
        for column in present
        if (match := difflib.get_close_matches(str(column).lower(), accepted, 1, 0.6))
    ]
    there = ", ".join(near) or ", ".join(repr(column) for column in present) or "nothing"
    raise UserError(f"{place}: no column {accepted[0]!r}; there is {there}")


def _path(name: str, place: str) -> str:
    """A picture's name with forward slashes and without a leading ./"""
    clean = name.strip().replace("\\", "/").removeprefix("./")
    if not clean:
        raise UserError(f"{place}: the name of the picture is empty")
    return clean
