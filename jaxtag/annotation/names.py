"""Tags in the user's language: tables of names and of synonyms."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from jaxtag.errors import UserError
from jaxtag.tasks.base import Row

_SEPARATORS = ",;\t"  # as spreadsheets of different languages write them


def read_names(path: Path) -> dict[str, str]:
    """Reads a table with the columns `tag` and `name`: a model's tag -> how it is to be called.

    Raises:
        UserError: The file cannot be read, or is no such table.
    """
    names: dict[str, str] = {}
    for number, tag, name in _read_table(path, "--names", "name"):
        if names.get(tag, name) != name:
            raise UserError(f"--names={path}: row {number} gives {tag!r} a second name")
        names[tag] = name
    return names


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads a table with the columns `tag` and `synonym`: a tag -> other words for it.

    Raises:
        UserError: The file cannot be read, or is no such table.
    """
    synonyms: dict[str, tuple[str, ...]] = {}
    for _, tag, synonym in _read_table(path, "--synonyms", "synonym"):
        synonyms[tag] = (*synonyms.get(tag, ()), synonym)
    return synonyms


def _read_table(path: Path, flag: str, column: str) -> Iterator[tuple[int, str, str]]:
    """The rows of a table with the columns `tag` and `column`, each with its number."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{flag}={path} is no text in UTF-8 (byte {error.start})") from error
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    if not rows or [cell.strip().lower() for cell in rows[0]] != ["tag", column]:
        raise UserError(
            f"{flag}={path}: its first line must be tag,{column} (it is {header[:80]!r})"
        )
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            raise UserError(f"{flag}={path}: row {number} must be a tag and its {column}, is {row}")
        yield number, cells[0], cells[1]


def rename(row: Row, names: Mapping[str, str]) -> Row:
    """The row with the names of its tags; two tags of one name become one, the likelier."""
    if not names or "tags" not in row:
        return row
    tags: dict[str, dict[str, object]] = {}
    for tag in row["tags"]:
        name = names.get(tag["tag"], tag["tag"])
        tags.setdefault(name, {**tag, "tag": name})  # the likeliest comes first
    return {**row, "tags": list(tags.values())}


def unknown(names: Mapping[str, str], tags: Iterable[str]) -> list[str]:
    """The tags of a table that no model has."""
    model_tags = set(tags)
    return [tag for tag in names if tag not in model_tags]
