"""Tables of captions or tags that users write: CSV, JSON-lines, COCO-style JSON, to `Row`s."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxtag.datasets.archives import SourceFiles
from jaxtag.datasets.coco_json import read_coco_instances, read_coco_json
from jaxtag.datasets.text_files import read_json, read_text
from jaxtag.errors import UserError, nearest

CAPTIONS, TAGS = "captions", "tags"
_FILE = ("file", "file_name", "filename", "image", "image_path", "path")
_CAPTION = ("caption", "captions", "text")
_TAG = ("tags", "tag", "labels", "label", "keywords")
_SPLIT = ("split",)
_GROUP = ("group",)
_UNKNOWN = ("unknown_tags",)
_TAG_SEPARATORS = re.compile(r"[;|]")  # in one field of a CSV
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_MAX_FIELD_CHARACTERS = 1 << 24  # csv allows 1 << 17


@dataclass
class Row:
    """One entry: the annotations of an image in a line or an object.

    Attributes:
        location: File and line, for messages.
        file: The image.
        kind: What `texts` are, CAPTIONS or TAGS.
        texts: The captions or tags.
        split: As written, or None.
        group: Of images that must not be parted; "" where there is none.
        unknown: Tags that were not annotated for this image.
        image_id: COCO's, or None.
    """

    location: str
    file: str
    kind: str
    texts: list[str]
    split: str | None = None
    group: str = ""
    unknown: list[str] = field(default_factory=list)
    image_id: str | None = None


def is_table(name: str) -> bool:
    """Whether a file name may be one of captions or tags."""
    return name.lower().endswith(_SUFFIXES)


def read_table(source: SourceFiles, name: str, problems: list[tuple[str, str]]) -> Iterator[Row]:
    """Reads the rows of a table of captions or tags, by the suffix of its name.

    Raises:
        UserError: It is malformed; names the file, the line and, for columns, the nearest name.
    """
    suffix = name.lower().rpartition(".")[2]
    if suffix in ("csv", "tsv", "txt"):
        return _read_csv(source, name, "\t" if suffix == "tsv" else None)
    if suffix in ("jsonl", "ndjson"):
        return _read_json_lines(source, name)
    if suffix == "json":
        return _read_json(source, name, problems)
    raise UserError(f"{source.where(name)}: tables are read from .csv, .tsv, .jsonl and .json")


def _read_csv(source: SourceFiles, name: str, delimiter: str | None) -> Iterator[Row]:
    where = source.where(name)
    text = read_text(source, name)
    header_line = text.partition("\n")[0]
    if delimiter is None:  # spreadsheets of some languages write semicolons
        delimiter = max(",;\t", key=header_line.count)
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    # `strict` makes an unclosed quote an error instead of one caption of a thousand lines.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [column.strip().lower() for column in next(reader, [])]
        file_column = _required_column(header, _FILE, where, "'file'")
        text_column = _text_column(header, where)
        for fields in reader:
            location = f"{where}, line {reader.line_num}"
            if not any(value.strip() for value in fields):
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{location}: {len(fields)} fields, but {len(header)} columns "
                    f"({', '.join(header)}): put text with a {delimiter!r} in double quotes"
                )
            row = dict(zip(header, fields, strict=True))
            text = row[text_column]
            yield _row(
                location,
                row[file_column],
                text_column,
                [text] if text_column in _CAPTION else _TAG_SEPARATORS.split(text),
                split=_value(row, _SPLIT),
                group=_value(row, _GROUP),
                unknown=_TAG_SEPARATORS.split(_value(row, _UNKNOWN) or ""),
            )
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}") from error


def _read_json_lines(source: SourceFiles, name: str) -> Iterator[Row]:
    where = source.where(name)
    # Not splitlines(): that also splits at characters that are allowed inside of JSON strings.
    for number, line in enumerate(read_text(source, name).split("\n"), start=1):
        if not line.strip():
            continue
        location = f"{where}, line {number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{location}: no JSON: {error}") from error
        yield _row_of_object(entry, location)


def _read_json(source: SourceFiles, name: str, problems: list[tuple[str, str]]) -> Iterator[Row]:
    """Reads COCO's form, or a list of objects as in JSON-lines."""
    where = source.where(name)
    content = read_json(source, name)
    if isinstance(content, list):
        for number, entry in enumerate(content):
            yield _row_of_object(entry, f"{where}, entry {number}")
        return
    kind = TAGS if _holds_instances(content) else CAPTIONS
    if kind == TAGS:
        _, images = read_coco_instances(source, name, problems)
    else:
        images = read_coco_json(source, name, problems)
    for image in images:
        location = f"{where}, image {image.id}"
        texts = image.tags if kind == TAGS else image.captions
        file = _clean_path(image.file, location)
        yield Row(location, file, kind, texts, image_id=image.id)


def _holds_instances(content: object) -> bool:
    """Whether a file in COCO's form is one of objects, not of captions."""
    if not isinstance(content, dict) or not content.get("categories"):
        return False
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    return not (isinstance(first, dict) and "caption" in first)


def _row_of_object(entry: object, location: str) -> Row:
    if not isinstance(entry, dict):
        raise UserError(f'{location}: not an object like {{"file": "a.jpg", "caption": "…"}}')
    file_name = _required_column(entry, _FILE, location, "'file'")
    text_name = _text_column(entry, location)
    unknown_name = _column(entry, _UNKNOWN)
    has_unknown = unknown_name is not None and entry[unknown_name] is not None
    for name in (file_name, *_SPLIT, *_GROUP):
        if not isinstance(entry.get(name, ""), str | None):
            raise UserError(f'{location}: "{name}" is not a text')
    return _row(
        location,
        entry[file_name],
        text_name,
        _texts(entry, text_name, location),
        split=entry.get("split"),
        group=entry.get("group"),
        unknown=_texts(entry, unknown_name, location) if has_unknown else [],
    )


def _texts(entry: dict[str, Any], name: str | None, location: str) -> list[str]:
    value = entry[name or ""]
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f'{location}: "{name}" is neither a text nor a list of texts')
    return texts


def _row(
    location: str,
    file: str,
    text_column: str,
    texts: list[str],
    *,
    split: str | None,
    group: str | None,
    unknown: list[str],
) -> Row:
    kind = CAPTIONS if text_column in _CAPTION else TAGS
    return Row(
        location,
        _clean_path(file, location),
        kind,
        _clean_tags(texts) if kind == TAGS else list(texts),
        split or None,
        (group or "").strip(),
        _clean_tags(unknown),
    )


def _clean_tags(texts: list[str]) -> list[str]:
    return [tag for text in texts if (tag := " ".join(text.split()))]


def _clean_path(name: str, location: str) -> str:
    """An image's name with forward slashes and without a leading ./"""
    path = name.strip().replace("\\", "/").removeprefix("./")
    if not path:
        raise UserError(f"{location}: the name of the image is empty")
    return path


def _text_column(columns: Iterable[Any], location: str) -> str:
    """The column of captions or of tags; a table has one of them."""
    columns = list(columns)
    name = _required_column(columns, _CAPTION + _TAG, location, "'caption' or 'tags'")
    other = _column(columns, _TAG)
    if name in _CAPTION and other:
        raise UserError(
            f"{location}: there are captions ({name}) and tags ({other}); leave one of them out, "
            "or make a data set of each"
        )
    return name


def _column(columns: Iterable[Any], accepted: tuple[str, ...]) -> str | None:
    """The first accepted name that is there."""
    names = set(columns)
    return next((name for name in accepted if name in names), None)


def _value(row: dict[str, str], accepted: tuple[str, ...]) -> str | None:
    column = _column(row, accepted)
    return None if column is None else row[column]


def _required_column(
    columns: Iterable[Any], accepted: tuple[str, ...], location: str, description: str
) -> str:
    """The first accepted name that is there; otherwise the error names those near to one."""
    columns = list(columns)
    column = _column(columns, accepted)
    if column is not None:
        return column
    near = [
        f"{name!r} (did you mean {match!r}?)"
        for name in columns
        if (match := nearest(str(name).lower(), accepted, 0.6))
    ]
    present = ", ".join(near) or ", ".join(map(repr, columns)) or "nothing"
    raise UserError(f"{location}: no column {description}; there is {present}")
