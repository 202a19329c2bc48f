"""Tables of captions, tags or labels that users write: CSV, JSON-lines, COCO-style JSON, to `Row`s.

An entry that cannot be used goes to the problems, and the rest goes on.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtag.data.spreadsheet import unescape_cell
from jaxtag.data.text import clean_name, clean_path
from jaxtag.datasets.coco_json import read_coco_instances, read_coco_json
from jaxtag.datasets.layout import SPLITS
from jaxtag.datasets.odd_entries import NotATableError, OddEntries, Problems
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import parse_json, read_json, read_text
from jaxtag.errors import UserError, nearest

CAPTIONS, TAGS = "captions", "tags"
# Accepted names of columns, the best first; an id names a file where nothing else does.
_FILE = (
    *("file", "file_name", "filename", "filenames", "fname", "image", "image_path", "path"),
    *("file_path", "filepath", "filepaths", "image_name", "imagename", "image_file", "img"),
    *("img_path", "img_name", "picture", "photo"),
)
_FILE_ID = ("image_id", "img_id", "id")
_CAPTION = ("caption", "captions", "text")
_TAG = ("tags", "tag", "labels", "label", "keywords")
_MORE_TAG = (
    *("keyword", "classes", "class", "class_name", "classname", "category", "categories"),
    *("breed", "species", "label_name", "target", "attribute_ids"),
)
# Columns of which several values in one field, or several rows of an image, are to be expected.
_MANY = ("tags", "tag", "keywords", "keyword", "attribute_ids", "target")
_SPLIT = ("split", "data_set", "dataset", "subset", "partition", "fold")
_VALIDATION = ("is_valid", "is_val", "is_validation")
_GROUP = ("group",)
_UNKNOWN = ("unknown_tags",)
_INDEX = ("", "index", "unnamed:_0", "class_id", "label_id", "category_id")
_TAG_SEPARATORS = re.compile(r"[;|]")  # in one field of a CSV
_PRESENT = ("1", "1.0", "true", "yes")
_ABSENT = ("0", "0.0", "false", "no")
_UNSURE = ("", "-1", "-1.0", "nan")
_ANNOTATED = {"tags", "scores", "error"}  # columns of jaxtag.annotate, which writes ; between tags
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_MAX_FIELD_CHARACTERS = 1 << 24  # csv allows 1 << 17


class _TwoKindsError(UserError):
    """Captions and tags in one table."""


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
        is_label: Whether `texts` come from a column of classes, of which an image has one.
    """

    location: str
    file: str
    kind: str
    texts: list[str]
    split: str | None = None
    group: str = ""
    unknown: list[str] = field(default_factory=list)
    image_id: str | None = None
    is_label: bool = False


@dataclass
class Table:
    """What a file of annotations holds.

    Attributes:
        rows: Of each entry that can be used.
        names: All tags in the order in which the file numbers them; empty where it does not.
        problems: (file or line, reason) of entries that cannot be used.
        warnings: How doubtful columns were read.
    """

    rows: list[Row]
    names: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def is_table(name: str) -> bool:
    """Whether a file name may be one of captions or tags."""
    return name.lower().endswith(_SUFFIXES)


def read_table(source: SourceFiles, name: str) -> Table:
    """Reads a table of captions or tags, by the suffix of its name.

    Raises:
        UserError: It is malformed; names the file, the line and, for columns, the nearest name.
            NotATableError: It holds no annotations of images.
    """
    suffix = name.lower().rpartition(".")[2]
    if suffix in ("csv", "tsv", "txt"):
        return _read_csv(source, name, "\t" if suffix == "tsv" else None)
    if suffix in ("jsonl", "ndjson"):
        return _read_objects(_lines(source, name))
    if suffix == "json":
        return _read_json(source, name)
    raise UserError(f"{source.where(name)}: tables are read from .csv, .tsv, .jsonl and .json")


def _read_csv(source: SourceFiles, name: str, delimiter: str | None) -> Table:
    where = source.where(name)
    text = read_text(source, name)
    if "\n" not in text:  # as old Macs ended lines
        text = text.replace("\r", "\n")
    header_line = text.partition("\n")[0]
    if delimiter is None:  # spreadsheets of some languages write semicolons
        delimiter = max(",;\t", key=header_line.count)
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    # `strict` makes an unclosed quote an error instead of one caption of a thousand lines.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    entries: list[tuple[str, dict[str, str]]] = []
    odd = OddEntries()
    try:
        header = [_column_name(column) for column in next(reader, [])]
        for fields in reader:
            location = f"{where}, line {reader.line_num}"
            if len(fields) == len(header):
                cells = map(unescape_cell, fields)
                entries.append((location, dict(zip(header, cells, strict=True))))
            elif any(value.strip() for value in fields):
                odd.add(
                    location,
                    f"{len(fields)} fields, but {len(header)} columns ({', '.join(header)}): put "
                    f"text with a {delimiter!r} in double quotes",
                )
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}") from error
    entries = [(location, row) for location, row in entries if any(map(str.strip, row.values()))]
    return _table_of_columns(where, header, entries, odd)


def _table_of_columns(
    where: str, header: list[str], entries: list[tuple[str, dict[str, str]]], odd: OddEntries
) -> Table:
    table = Table([])
    file_column = _required_column(header, _FILE + _FILE_ID, where, "'file'")
    text_column = _any_text_column(header, where)
    flag_columns = [] if text_column else _flag_columns(header, file_column, entries)
    if text_column is None and len(flag_columns) < 2:
        text_column = _only_other_column(header, file_column, where)
        table.warnings.append(f"{where}: the column {text_column!r} is taken as the class")
    is_caption = text_column in _CAPTION
    texts: list[list[str]] = []
    unknown = [_TAG_SEPARATORS.split(_value(row, _UNKNOWN) or "") for _, row in entries]
    if text_column is None:
        table.names = sorted({clean_name(name) for name in flag_columns} - {""})
        for number, (_, row) in enumerate(entries):
            values = {name: row[name].strip().lower() for name in flag_columns}
            texts.append([name for name in flag_columns if values[name] in _PRESENT])
            unknown[number] += [name for name in flag_columns if values[name] in _UNSURE]
    elif is_caption:
        texts = [[row[text_column]] for _, row in entries]
    elif set(header) >= _ANNOTATED:
        texts = [_TAG_SEPARATORS.split(row[text_column]) for _, row in entries]
    else:
        fields = [row[text_column] for _, row in entries]
        texts = _split_tags(fields, text_column, file_column, where, table.warnings)
    is_label = text_column is not None and not is_caption and text_column not in _MANY
    for (location, row), row_texts, row_unknown in zip(entries, texts, unknown, strict=True):
        file = _clean_file(row[file_column])
        if not file:
            odd.add(location, "the name of the image is empty")
            continue
        table.rows.append(
            Row(
                location,
                file,
                CAPTIONS if is_caption else TAGS,
                row_texts if is_caption else _clean_tags(row_texts),
                _split_of(row),
                clean_name(_value(row, _GROUP) or ""),
                _clean_tags(row_unknown),
                is_label=is_label,
            )
        )
    odd.report(len(table.rows), table.problems)
    return table


def _split_of(entry: dict[str, Any]) -> str | None:
    """The split as written; columns that only may name splits count where they do."""
    validation = _column(entry, _VALIDATION)
    if validation is not None:
        return "validation" if str(entry[validation]).strip().lower() in _PRESENT else "train"
    column = _column(entry, _SPLIT)
    value = entry[column] if column is not None else None
    is_meant = column == "split" or str(value).strip().lower() in SPLITS
    return (value or None) if is_meant else None


def _split_tags(
    fields: list[str], column: str, file_column: str, where: str, warnings: list[str]
) -> list[list[str]]:
    """Splits the fields of a column of tags; warns where a separator is doubtful."""
    filled = [value for value in fields if value.strip()]
    if any(_TAG_SEPARATORS.search(value) for value in filled):
        return [_TAG_SEPARATORS.split(value) for value in fields]
    with_commas = [value for value in filled if "," in value]
    if 2 * len(with_commas) > len(filled):
        warnings.append(
            f"{where}: most fields of {column!r} hold a comma, such as {with_commas[0][:60]!r}, "
            "and each is taken as one tag: write ; between the tags if they are several"
        )
    elif _blanks_separate(filled, column, file_column):
        warnings.append(
            f"{where}: the tags in {column!r} are taken as separated by blanks, such as "
            f"{max(filled, key=len)[:60]!r}: write ; between tags of several words"
        )
        return [value.split() for value in fields]
    return [[value] for value in fields]


def _blanks_separate(fields: list[str], column: str, file_column: str) -> bool:
    """Whether the words of a field are tags of their own, as in tables of many competitions.

    That is so in their forms (image_name and tags, fname and labels), where all are numbers, and
    where fewer words than different fields make up all fields.
    """
    if column in _CAPTION or not any(" " in value.strip() for value in fields):
        return False
    words = [word for value in fields for word in value.split()]
    if (file_column, column) in (("image_name", "tags"), ("fname", "labels")):
        return True
    if all(word.isdecimal() for word in words):
        return True
    if column not in ("tags", "labels", "keywords", "classes", "categories"):
        return False
    several = {value for value in fields if " " in value.strip()}
    uses = Counter(word for value in several for word in set(value.split()))
    return len(several) >= 8 and 2 * len(uses) < len(several)


def _flag_columns(
    header: list[str], file_column: str, entries: list[tuple[str, dict[str, str]]]
) -> list[str]:
    """The columns that say of a tag by 0 or 1 whether an image has it."""
    others = {file_column, *_SPLIT, *_VALIDATION, *_GROUP, *_UNKNOWN, *_INDEX}
    allowed = {*_PRESENT, *_ABSENT, *_UNSURE}
    columns = []
    for name in header:
        values = {row[name].strip().lower() for _, row in entries} if name not in others else set()
        if values & {*_PRESENT, *_ABSENT} and values <= allowed:
            columns.append(name)
    return columns


def _only_other_column(header: list[str], file_column: str, where: str) -> str:
    """The single column beside those with a meaning, which then holds the classes."""
    special = {file_column, *_FILE, *_FILE_ID, *_SPLIT, *_VALIDATION, *_GROUP, *_UNKNOWN, *_INDEX}
    others = [name for name in header if name not in special]
    if len(others) == 1 and not nearest(others[0], _CAPTION + _TAG, 0.6):
        return others[0]
    return _required_column(header, _CAPTION + _TAG, where, "'caption' or 'tags'")


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


def _read_json(source: SourceFiles, name: str) -> Table:
    """Reads COCO's form, or a list of objects as in JSON-lines."""
    where = source.where(name)
    content = read_json(source, name)
    if isinstance(content, list):
        return _read_objects((f"{where}, entry {n}", entry) for n, entry in enumerate(content))
    table = Table([])
    kind = TAGS if _holds_instances(content) else CAPTIONS
    if kind == TAGS:
        table.names, images = read_coco_instances(source, name, table.problems)
        if not any(image.tags for image in images):
            table.warnings.append(f"{where}: there are no annotations of any category")
    else:
        images = read_coco_json(source, name, table.problems)
    for image in images:
        location = f"{where}, image {image.id}"
        texts = image.tags if kind == TAGS else image.captions
        file = _clean_file(image.file)
        table.rows.append(Row(location, file, kind, texts, image_id=image.id))
    return table


def _holds_instances(content: object) -> bool:
    """Whether a file in COCO's form is one of objects, not of captions."""
    if not isinstance(content, dict) or not content.get("categories"):
        return False
    annotations = content.get("annotations")
    objects = (
        [a for a in annotations if isinstance(a, dict)] if isinstance(annotations, list) else []
    )
    return not any("caption" in annotation for annotation in objects[:100])


def _read_objects(entries: Iterable[tuple[str, object]]) -> Table:
    """Reads entries such as {"file": "a.jpg", "caption": "…"}."""
    table, odd = Table([]), OddEntries()
    for location, entry in entries:
        if isinstance(entry, dict) and entry.get("error") and not _column(entry, _CAPTION + _TAG):
            table.problems.append((location, f"without annotations: {entry['error']}"))
            continue  # an image that jaxtag.annotate could not read
        try:
            row, reason = _row_of_object(entry, location)
        except _TwoKindsError:
            raise
        except UserError as error:
            odd.add(location, str(error).removeprefix(f"{location}: "))
            continue
        table.rows.append(row)
        if reason:
            table.problems.append((location, reason))
    odd.report(len(table.rows), table.problems)
    return table


def _row_of_object(entry: object, location: str) -> tuple[Row, str]:
    """The row of an object, and what of it cannot be used ("" where all can).

    Raises:
        NotATableError: It cannot be used at all.
    """
    if isinstance(entry, Exception):
        raise NotATableError(f"{location}: no JSON: {entry}")
    if not isinstance(entry, dict):
        raise NotATableError(f'{location}: not an object like {{"file": "a.jpg", "caption": "…"}}')
    entry = {_column_name(name): value for name, value in entry.items()}
    file_name = _required_column(entry, _FILE + _FILE_ID, location, "'file'")
    text_name = _any_text_column(entry, location) or _required_column(
        entry, _CAPTION + _TAG, location, "'caption' or 'tags'"
    )
    if isinstance(entry[file_name], int) and not isinstance(entry[file_name], bool):
        entry[file_name] = str(entry[file_name])
    if not isinstance(entry[file_name], str):
        raise NotATableError(f'{location}: "{file_name}" is not a text')
    for name in ("split", *_GROUP):
        if not isinstance(entry.get(name, ""), str | None):
            raise NotATableError(f'{location}: "{name}" is not a text')
    texts, reason = _texts(entry, text_name, location)
    unknown_name = _column(entry, _UNKNOWN)
    unknown: list[str] = []
    if unknown_name is not None and entry[unknown_name] is not None:
        unknown, unknown_reason = _texts(entry, unknown_name, location)
        reason = reason or unknown_reason
    file = _clean_file(entry[file_name])
    if not file:
        raise NotATableError(f"{location}: the name of the image is empty")
    is_caption = text_name in _CAPTION
    is_label = not is_caption and text_name not in _MANY and not isinstance(entry[text_name], list)
    row = Row(
        location,
        file,
        CAPTIONS if is_caption else TAGS,
        texts if is_caption else _clean_tags(texts),
        _split_of(entry),
        clean_name(entry.get("group") or ""),
        _clean_tags(unknown),
        is_label=is_label,
    )
    return row, reason


def _texts(entry: dict[str, Any], name: str, location: str) -> tuple[list[str], str]:
    """The texts of a field, and the reason against those that are none; numbers name classes."""
    value = entry[name]
    values = value if isinstance(value, list) else [value]
    # As jaxtag.annotate writes them: {"tag": "dog", "score": 0.9}.
    values = [item["tag"] if isinstance(item, dict) and "tag" in item else item for item in values]
    is_caption = name in _CAPTION
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


def _clean_tags(texts: Iterable[str]) -> list[str]:
    return [tag for text in texts if (tag := clean_name(text))]


def _clean_file(name: str) -> str:
    """An image's name with forward slashes and without a leading ./"""
    return clean_path(name.strip().replace("\\", "/").removeprefix("./"))


def _column_name(name: object) -> str:
    """The name of a column as it is compared: `File Name` as `file_name`."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def _any_text_column(columns: Iterable[Any], location: str) -> str | None:
    """The column of captions or of tags, None without one; a table has one of them."""
    columns = list(columns)
    name = _column(columns, _CAPTION + _TAG)
    other = _column(columns, _TAG)
    if name in _CAPTION and other:
        raise _TwoKindsError(
            f"{location}: there are captions ({name}) and tags ({other}); leave one of them out, "
            "or make a data set of each"
        )
    return name or _column(columns, _MORE_TAG)


def _column(columns: Iterable[Any], accepted: Sequence[str]) -> str | None:
    """The first accepted name that is there."""
    names = set(columns)
    return next((name for name in accepted if name in names), None)


def _value(row: dict[str, str], accepted: Sequence[str]) -> str | None:
    column = _column(row, accepted)
    return None if column is None else row[column]


def _required_column(
    columns: Iterable[Any], accepted: Sequence[str], location: str, description: str
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
    # A misspelled column is one of a table; a file without anything near is something else.
    kind = UserError if near else NotATableError
    raise kind(f"{location}: no column {description}; there is {present}")
