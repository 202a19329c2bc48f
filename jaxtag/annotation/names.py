"""Tags in the user's language: a table of names."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxtag.errors import UserError
from jaxtag.tasks.base import Row

_COLUMNS = ["tag", "name"]
_SEPARATORS = ",;\t"  # as spreadsheets of different languages write them


def read_names(path: Path) -> dict[str, str]:
    """Reads a table with the columns `tag` and `name`: a model's tag -> how it is to be called.

    Raises:
        UserError: The file cannot be read, or is no such table.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--names={path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--names={path} is no text in UTF-8 (byte {error.start})") from error
    header = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    if not rows or [cell.strip().lower() for cell in rows[0]] != _COLUMNS:
        raise UserError(f"--names={path}: its first line must be tag,name (it is {header[:80]!r})")
    names: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            raise UserError(f"--names={path}: row {number} must be a tag and its name, is {row}")
        if names.get(cells[0], cells[1]) != cells[1]:
            raise UserError(f"--names={path}: row {number} gives {cells[0]!r} a second name")
        names[cells[0]] = cells[1]
    return names


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
