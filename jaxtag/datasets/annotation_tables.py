"""Files of captions or tags that users write: CSV, JSON-lines, COCO-style JSON, to `Row`s."""

import csv
import difflib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxtag.datasets.archives import Store
from jaxtag.datasets.coco_json import read_coco_instances, read_coco_json, read_json, read_text
from jaxtag.errors import UserError

CAPTIONS, TAGS = "captions", "tags"
_FILE = ("file", "file_name", "filename", "image", "image_path", "path")
_CAPTION = ("caption", "captions", "text")
_TAG = ("tags", "tag", "labels", "label", "keywords")
_TAG_SEPARATORS = re.compile(r"[;|]")  # in one field of a CSV
_SPLIT = ("split",)
_GROUP = ("group",)
_UNKNOWN = ("unknown_tags",)
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
csv.field_size_limit(1 << 24)


@dataclass
class Row:
    """One entry: what a line or an object says of a picture.

    Attributes:
      place: names file and line for messages.
      kind: what `texts` are, CAPTIONS or TAGS.
      split: as written, or None.
      group: of pictures that must not be parted; "" where there is none.
      unknown: tags of which nobody looked whether the picture has them.
    """

    place: str
    file: str
    kind: str
    texts: list[str]
    split: str | None = None
    group: str = ""
    unknown: list[str] = field(default_factory=list)
    image_id: str | None = None


def is_table(name: str) -> bool:
    """Whether a file name may be one of captions or tags."""
    return name.lower().endswith(_TABLES)


def read_table(store: Store, name: str, problems: list[tuple[str, str]]) -> Iterator[Row]:
    """The rows of a file of captions or tags, by the ending of its name.

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
    raise UserError(f"{store.where(name)}: tables are read from .csv, .tsv, .jsonl and .json")


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
        file, said = _column(header, _FILE, where), _what_is_said(header, where)
        split, group, unknown = (
            _column(header, one, where, needed=False) for one in (_SPLIT, _GROUP, _UNKNOWN)
        )
        for fields in reader:
            place = f"{where}, line {reader.line_num}"
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{place}: {len(fields)} fields, but {len(header)} columns "
                    f"({', '.join(header)}): put text with a {delimiter!r} in double quotes"
                )
            row = dict(zip(header, fields, strict=True))
            texts = [row[said]] if said in _CAPTION else _TAG_SEPARATORS.split(row[said])
            untold = _TAG_SEPARATORS.split(row.get(unknown, ""))
            path = _path(row[file], place)
            yield _row(place, path, said, texts, row.get(split), row.get(group), untold)
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
        yield _of_object(entry, place)


def _json(store: Store, name: str, problems: list[tuple[str, str]]) -> Iterator[Row]:
    """COCO's form, or a list of objects as in JSON-lines."""
    where = store.where(name)
    content = read_json(store, name)
    if isinstance(content, list):
        for number, entry in enumerate(content):
            yield _of_object(entry, f"{where}, entry {number}")
        return
    kind = TAGS if _has_objects(content) else CAPTIONS
    if kind == TAGS:
        _, images = read_coco_instances(store, name, problems)
    else:
        images = read_coco_json(store, name, problems)
    for image in images:
        place = f"{where}, image {image.id}"
        texts = image.tags if kind == TAGS else image.captions
        yield Row(place, _path(image.file, place), kind, texts, image_id=image.id)


def _has_objects(content: object) -> bool:
    """Whether a file in COCO's form is one of objects, not of captions."""
    if not isinstance(content, dict) or not content.get("categories"):
        return False
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    return not (isinstance(first, dict) and "caption" in first)


def _of_object(entry: object, place: str) -> Row:
    if not isinstance(entry, dict):
        raise UserError(f'{place}: not an object like {{"file": "a.jpg", "caption": "…"}}')
    file, said = _column(entry, _FILE, place), _what_is_said(entry, place)
    texts, unknown = _texts(entry, said, place), []
    if (column := _column(entry, _UNKNOWN, place, needed=False)) and entry[column] is not None:
        unknown = _texts(entry, column, place)
    for name in (file, *_SPLIT, *_GROUP):
        if not isinstance(entry.get(name, ""), str | None):
            raise UserError(f'{place}: "{name}" is not a text')
    path = _path(entry[file], place)
    return _row(place, path, said, texts, entry.get("split"), entry.get("group"), unknown)


def _texts(entry: dict, name: str, place: str) -> list[str]:
    texts = entry[name] if isinstance(entry[name], list) else [entry[name]]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f'{place}: "{name}" is neither a text nor a list of texts')
    return texts


def _row(
    place: str,
    file: str,
    said: str,
    texts: list[str],
    split: str | None,
    group: str | None,
    unknown: list[str],
) -> Row:
    kind = CAPTIONS if said in _CAPTION else TAGS
    texts = _tags(texts) if kind == TAGS else list(texts)
    return Row(place, file, kind, texts, split or None, (group or "").strip(), _tags(unknown))


def _tags(texts: list[str]) -> list[str]:
    return [tag for text in texts if (tag := " ".join(text.split()))]


def _what_is_said(present, place: str) -> str:
    """The column of captions or of tags; a file has one of them."""
    said = _column(present, _CAPTION + _TAG, place, "'caption' or 'tags'")
    other = _column(present, _TAG, place, needed=False)
    if said in _CAPTION and other:
        raise UserError(
            f"{place}: there are captions ({said}) and tags ({other}); leave one of them out, or "
            "make a data set of each"
        )
    return said


def _column(
    present, accepted: tuple[str, ...], place: str, called: str = "'file'", needed: bool = True
) -> str | None:
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
    raise UserError(f"{place}: no column {called}; there is {there}")


def _path(name: str, place: str) -> str:
    """A picture's name with forward slashes and without a leading ./"""
    clean = name.strip().replace("\\", "/").removeprefix("./")
    if not clean:
        raise UserError(f"{place}: the name of the picture is empty")
    return clean
