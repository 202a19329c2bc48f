"""Tables of captions, tags or classes as CSV: with commas, semicolons, tabs or bars.

A row that cannot be used goes to the problems, and the rest goes on. Of a row only the cells that
mean something are kept, so that tables of millions of rows fit in memory.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from jaxtag.data.spreadsheet import unescape_cell
from jaxtag.data.text import clean_name
from jaxtag.datasets.annotations import CAPTIONS, TAGS, Row, Table, clean_file, clean_tags
from jaxtag.datasets.odd_entries import OddEntries
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.table_columns import (
    ABSENT,
    CAPTION,
    FILE,
    FILE_ID,
    GROUP,
    INDEX,
    MANY,
    PRESENT,
    SPLIT,
    TAG,
    UNKNOWN,
    UNSURE,
    VALIDATION,
    any_text_column,
    column,
    column_name,
    is_caption_column,
    required_column,
    split_of,
)
from jaxtag.datasets.text_files import read_text
from jaxtag.errors import UserError, nearest

_TAG_SEPARATORS = re.compile(r"[;|]")  # in one field
_ANNOTATED = {"tags", "scores", "error"}  # columns of jaxtag.annotate, which writes ; between tags
_MAX_FIELD_CHARACTERS = 1 << 24  # csv allows 1 << 17
_MAX_SHARED = 10_000  # texts that are kept once
_MAX_FLAGS = len({*PRESENT, *ABSENT, *UNSURE})


@dataclass
class _Cells:
    """The cells of a table that mean something.

    Attributes:
        header: Names of the columns that are kept.
        lines: Number of the line of each row.
        rows: Its cells, in the order of `header`.
    """

    header: list[str]
    lines: list[int] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """The cells of a column."""
        index = self.header.index(name)
        return [row[index] for row in self.rows]


def read_csv(
    source: SourceFiles, name: str, delimiter: str | None = None, kind: str | None = None
) -> Table:
    """Reads a table; see `annotation_tables.read_table`.

    Args:
        delimiter: Between fields; by default the one that the first line has most of.
        kind: CAPTIONS or TAGS, for a table that has both.
    """
    where = source.where(name)
    odd = OddEntries()
    cells = _read_cells(source, name, delimiter, kind, odd)
    table = _table_of_cells(where, cells, kind, odd)
    odd.report(len(table.rows), table.problems)
    return table


def _read_cells(
    source: SourceFiles, name: str, delimiter: str | None, kind: str | None, odd: OddEntries
) -> _Cells:
    where = source.where(name)
    text = read_text(source, name)
    if "\n" not in text:  # as old Macs ended lines
        text = text.replace("\r", "\n")
    if delimiter is None:  # spreadsheets of some languages write semicolons
        delimiter = max(",;\t|", key=text.partition("\n")[0].count)
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    # `strict` makes an unclosed quote an error instead of one caption of a thousand lines. Between
    # bars, as Flickr30k's results.csv has them, quotes are those of the caption.
    has_quotes = delimiter != "|"
    reader = csv.reader(
        text_lines(text),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE,
    )
    try:
        header = [column_name(title) for title in next(reader, [])]
        indices = _meant_columns(header, where, kind)
        cells = _Cells([header[index] for index in indices])
        is_last_text = name.lower().endswith(".txt") and is_caption_column((header or [""])[-1])
        shared: dict[str, str] = {}  # classes and splits, which come many times
        file_columns = {indices.index(n) for n in indices if header[n] in FILE + FILE_ID}
        for fields in reader:
            if is_last_text and len(fields) > len(header):  # Kaggle's Flickr8k: commas in captions
                fields[len(header) - 1 :] = [delimiter.join(fields[len(header) - 1 :])]
            if len(fields) != len(header):
                if any(value.strip() for value in fields):
                    odd.add(
                        f"{where}, line {reader.line_num}",
                        f"{len(fields)} fields, but {len(header)} columns ({', '.join(header)}): "
                        f"put text with a {delimiter!r} in double quotes",
                    )
            elif any(map(str.strip, fields)):
                cells.lines.append(reader.line_num)
                row = [unescape_cell(fields[index]) for index in indices]
                for number, value in enumerate(row):
                    if number not in file_columns and len(shared) < _MAX_SHARED:
                        row[number] = shared.setdefault(value, value)
                cells.rows.append(tuple(row))
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}") from error
    return cells


def text_lines(text: str) -> Iterator[str]:
    """Lines with their ends; str.splitlines also splits at characters that text may hold."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _meant_columns(header: list[str], where: str, kind: str | None) -> list[int]:
    """The columns to keep: all, where none says by its name that it holds captions or tags."""
    required_column(header, FILE + FILE_ID, where, "'file'")
    text_column = any_text_column(header, where, kind)
    if text_column is None or set(header) >= _ANNOTATED:
        return list(range(len(header)))
    meant = {text_column, *FILE, *FILE_ID, *SPLIT, *VALIDATION, *GROUP, *UNKNOWN}
    return [index for index, name in enumerate(header) if name in meant]


def _table_of_cells(where: str, cells: _Cells, kind: str | None, odd: OddEntries) -> Table:
    table = Table()
    header = cells.header
    file_column = required_column(header, FILE + FILE_ID, where, "'file'")
    text_column = any_text_column(header, where, kind)
    flags = [] if text_column else _flag_columns(cells, file_column)
    if text_column is None and len(flags) < 2:
        text_column = _only_other_column(header, file_column, where)
        table.warnings.append(f"{where}: the column {text_column!r} is taken as the class")
    is_caption = is_caption_column(text_column)
    if text_column is None:
        flagged, unknown = _flagged(cells, flags)
        table.names = sorted({clean_name(name) for name in flags} - {""})
        text_index = 0
    else:
        splitter = _splitter(cells, text_column, file_column, where, table.warnings)
        flagged, unknown = [], {}
        text_index = header.index(text_column)
    is_label = text_column is not None and not is_caption and text_column not in MANY
    _add_unknown(cells, unknown)
    has_split = column(header, SPLIT + VALIDATION) is not None
    group_index = header.index(GROUP[0]) if GROUP[0] in header else None
    file_index = header.index(file_column)
    written, file = "", ""
    shared: dict[str, str] = {}
    for number, (line, row) in enumerate(zip(cells.lines, cells.rows, strict=True)):
        location = f"{where}, line {line}"
        if row[file_index] != written:  # rows of an image follow each other
            written, file = row[file_index], clean_file(row[file_index])
        if not file or not written:
            odd.add(location, "the name of the image is empty")
            continue
        texts = flagged[number] if text_column is None else splitter(row[text_index])
        cells.rows[number] = ()  # of millions of rows only one copy is kept
        table.rows.append(
            Row(
                location,
                file,
                CAPTIONS if is_caption else TAGS,
                texts if is_caption else [shared.setdefault(tag, tag) for tag in clean_tags(texts)],
                split_of(dict(zip(header, row, strict=True))) if has_split else None,
                clean_name(row[group_index]) if group_index is not None else "",
                clean_tags(unknown[number]) if number in unknown else (),
                is_label=is_label,
            )
        )
    return table


def _splitter(
    cells: _Cells, text_column: str, file_column: str, where: str, warnings: list[str]
) -> Callable[[str], list[str]]:
    """The function that makes captions, tags or a class of a field."""
    if is_caption_column(text_column):
        return _as_one
    if set(cells.header) >= _ANNOTATED:
        return _TAG_SEPARATORS.split
    return _tag_splitter(cells.values(text_column), text_column, file_column, where, warnings)


def _as_one(field: str) -> list[str]:
    return [field]


def _flagged(cells: _Cells, flags: Sequence[str]) -> tuple[list[list[str]], dict[int, list[str]]]:
    """The tags that each row has by its flags, and those of which it says nothing."""
    indices = [(cells.header.index(name), name) for name in flags]
    texts: list[list[str]] = []
    unknown: dict[int, list[str]] = {}
    for number, row in enumerate(cells.rows):
        values = [(row[index].strip().lower(), name) for index, name in indices]
        texts.append([name for value, name in values if value in PRESENT])
        unsure = [name for value, name in values if value in UNSURE]
        if unsure:
            unknown[number] = unsure
    return texts, unknown


def _add_unknown(cells: _Cells, unknown: dict[int, list[str]]) -> None:
    """Adds the tags of a column `unknown_tags`."""
    name = column(cells.header, UNKNOWN)
    if name is None:
        return
    for number, value in enumerate(cells.values(name)):
        if value.strip():
            unknown.setdefault(number, []).extend(_TAG_SEPARATORS.split(value))


def _tag_splitter(
    fields: list[str], text_column: str, file_column: str, where: str, warnings: list[str]
) -> Callable[[str], list[str]]:
    """The function that splits a field of tags; warns where a separator is doubtful."""
    filled = [value for value in fields if value.strip()]
    if any(_TAG_SEPARATORS.search(value) for value in filled):
        return _TAG_SEPARATORS.split
    with_commas = [value for value in filled if "," in value]
    if 2 * len(with_commas) > len(filled):
        warnings.append(
            f"{where}: most fields of {text_column!r} hold a comma, such as "
            f"{with_commas[0][:60]!r}, and each is taken as one tag: write ; between the tags if "
            "they are several"
        )
    elif _blanks_separate(filled, text_column, file_column):
        warnings.append(
            f"{where}: the tags in {text_column!r} are taken as separated by blanks, such as "
            f"{max(filled, key=len)[:60]!r}: write ; between tags of several words"
        )
        return str.split
    return _as_one


def _blanks_separate(fields: list[str], text_column: str, file_column: str) -> bool:
    """Whether the words of a field are tags of their own, as in tables of many competitions.

    That is so in their forms (image_name and tags, fname and labels), where all are numbers, and
    where fewer words than different fields make up all fields.
    """
    if not any(" " in value.strip() for value in fields):
        return False
    words = [word for value in fields for word in value.split()]
    if (file_column, text_column) in (("image_name", "tags"), ("fname", "labels")):
        return True
    if all(word.isdecimal() for word in words):
        return True
    if text_column not in ("tags", "labels", "keywords", "classes", "categories"):
        return False
    several = {value for value in fields if " " in value.strip()}
    uses = Counter(word for value in several for word in set(value.split()))
    return len(several) >= 8 and 2 * len(uses) < len(several)


def _flag_columns(cells: _Cells, file_column: str) -> list[str]:
    """The columns that say of a tag by 0 or 1 whether an image has it."""
    others = {file_column, *SPLIT, *VALIDATION, *GROUP, *UNKNOWN, *INDEX}
    allowed = {*PRESENT, *ABSENT, *UNSURE}
    names = []
    for index, name in enumerate(cells.header):
        values: set[str] = set()
        if name not in others:
            for row in cells.rows:
                values.add(row[index].strip().lower())
                if len(values) > _MAX_FLAGS:
                    break
        if values & {*PRESENT, *ABSENT} and values <= allowed:
            names.append(name)
    return names


def _only_other_column(header: list[str], file_column: str, where: str) -> str:
    """The single column beside those with a meaning, which then holds the classes."""
    special = {file_column, *FILE, *FILE_ID, *SPLIT, *VALIDATION, *GROUP, *UNKNOWN, *INDEX}
    others = [name for name in header if name not in special]
    if len(others) == 1 and not nearest(others[0], CAPTION + TAG, 0.6):
        return others[0]
    return required_column(header, CAPTION + TAG, where, "'caption' or 'tags'")
