"""Names of classes that a table has by their numbers: in a small file beside it.

Competitions have them as JSON ({"0": "Cassava Bacterial Blight (CBB)"}), as CSV
(attribute_id,attribute_name) and as text, a name a line from 0 on.
"""

import csv
import re
from collections.abc import Iterable
from typing import Any

from jaxtag.data.text import clean_name
from jaxtag.datasets.annotations import TAGS, Table
from jaxtag.datasets.odd_entries import NotATableError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_json, read_lines, read_text
from jaxtag.errors import UserError

_NAME = re.compile(r"class|label|categor|attribute|names|map|breed|species|id2", re.IGNORECASE)
_MAX_BYTES = 4 << 20


def name_numbers(source: SourceFiles, tables: list[Table]) -> None:
    """Puts names in the place of numbers where all tags of the tables are numbers.

    A file of names must have one for each number that is used; where two files differ, none is
    used, and a warning says so.
    """
    used = {
        tag
        for table in tables
        for row in table.rows
        if row.kind == TAGS
        for tag in (*row.texts, *row.unknown)
    }
    has_names = any(table.names for table in tables)
    if not used or has_names or not all(tag.isdecimal() and len(tag) < 10 for tag in used):
        return
    numbers = {int(tag) for tag in used}
    read = {name: _read(source, name) for name in _candidates(source, tables)}
    fitting = {name: names for name, names in read.items() if names and numbers <= names.keys()}
    if not fitting:
        return
    file, names = next(iter(fitting.items()))
    if any(other != names for other in fitting.values()):
        tables[0].warnings.append(
            f"the numbers of tags may be named by {' or '.join(fitting)}, which differ: no names "
            "are used; leave one of the files"
        )
        return
    tables[0].warnings.append(f"the numbers of tags are named by {file}")
    for table in tables:
        table.names = [names[number] for number in sorted(names)]
        for row in table.rows:
            row.texts = [names[int(tag)] for tag in row.texts]
            row.unknown = [names[int(tag)] for tag in row.unknown]


def is_label_map(table: Table, others: list[Table]) -> bool:
    """Whether a table names the numbers that another one has as tags, and no images."""
    numbers = {row.file for row in table.rows}
    names = [text for row in table.rows for text in row.texts]
    if not all(number.isdecimal() for number in numbers) or len(set(names)) < len(table.rows):
        return False
    return any(
        {tag for row in other.rows for tag in row.texts} <= numbers
        for other in others
        if other is not table and other.rows
    )


def _candidates(source: SourceFiles, tables: list[Table]) -> list[str]:
    used = {table.path for table in tables}
    top = min((name.count("/") for name in used), default=0)
    return [
        name
        for name in source.names()
        if name not in used
        and name.count("/") <= top
        and name.lower().endswith((".json", ".csv", ".txt", ".names"))
        and _NAME.search(name.rpartition("/")[2])
        and source.size(name) <= _MAX_BYTES
    ]


def _read(source: SourceFiles, name: str) -> dict[int, str]:
    """Number -> name; empty for a file of something else."""
    try:
        if name.lower().endswith(".json"):
            pairs = _pairs_of_json(read_json(source, name))
        elif name.lower().endswith(".csv"):
            pairs = _pairs_of_csv(read_text(source, name))
        else:
            pairs = list(enumerate(read_lines(source, name)))
    except (UserError, NotATableError, csv.Error):
        return {}
    names = {int(number): clean_name(str(text)) for number, text in pairs if _is_number(number)}
    is_sound = len(names) == len(pairs) and len(set(names.values())) == len(names)
    return names if is_sound and "" not in names.values() else {}


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal())


def _pairs_of_json(content: Any) -> list[tuple[Any, Any]]:
    """(number, name) of {"0": "a"}, {"a": 0}, ["a"] or {"id2label": {"0": "a"}}."""
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    if isinstance(content, list):
        return list(enumerate(item for item in content if isinstance(item, str)))
    if not isinstance(content, dict):
        return []
    if all(_is_number(value) and not _is_number(key) for key, value in content.items()):
        return [(value, key) for key, value in content.items()]
    return [(key, value) for key, value in content.items() if isinstance(value, str)]


def _pairs_of_csv(text: str) -> list[tuple[Any, Any]]:
    """(number, name) of the column of different numbers and the first of texts."""
    rows = [row for row in csv.reader(text.splitlines(), strict=True) if row]
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        return []
    columns = list(zip(*rows[1:], strict=True))
    number = next((c for c in columns if all(map(_is_number, c)) and _are_different(c)), None)
    name = next((c for c in columns if c is not number and not all(map(_is_number, c))), None)
    return list(zip(number, name, strict=True)) if number and name else []


def _are_different(values: Iterable[str]) -> bool:
    values = list(values)
    return len(set(values)) == len(values)
