"""CSV: one row per image, for spreadsheets, and for jaxtag.prepare and jaxtag.index to read."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from jaxtag.data.spreadsheet import escape_cell, escape_path
from jaxtag.inference.writers.base import Row
from jaxtag.storage.atomic_file import AtomicFile

_MARK = "\ufeff"  # by which spreadsheets know UTF-8


class CsvWriter:
    """Writes the columns file; tags and scores, or caption, whichever the first row has; error.

    Tags and their scores are joined by "; ", in the same order. Cells that would be formulas get an
    apostrophe.

    Args:
        path: the file; it gets this name when the writer is closed.
    """

    def __init__(self, path: Path):
        self._path, self._file = path, AtomicFile(path, "--csv")
        self._columns: tuple[str, ...] = ()
        self._waiting: list[Row] = []  # errors before the first row that tells the columns
        self._warnings: set[str] = set()
        self._file.write(_MARK)

    def write(self, row: Row) -> None:
        """Writes the row of one image."""
        if not self._columns:
            if "error" in row:
                self._waiting.append(row)
                return
            self._write_header([*(["tags"] * ("tags" in row)), *(["caption"] * ("caption" in row))])
        self._write_row(row)

    def close(self) -> None:
        """Gives the file its name."""
        if not self._columns:
            self._write_header(["tags", "caption"])
        self._file.finish()

    def abort(self) -> None:
        """Gives the file up; what was written keeps another name."""
        self._file.close()

    def _write_header(self, fields: Sequence[str]) -> None:
        names = {"tags": ("tags", "scores"), "caption": ("caption",)}
        columns = [column for field in fields for column in names[field]]
        self._columns = ("file", *columns, "error")
        self._write_cells(self._columns)
        for row in self._waiting:
            self._write_row(row)
        self._waiting.clear()

    def _write_row(self, row: Row) -> None:
        tags = row.get("tags", [])
        if any(";" in tag["tag"] or "|" in tag["tag"] for tag in tags):
            self._warn("some tags hold a ; or |, which separates tags in a table")
        missing = [name for name in ("tags", "caption") if row.get(name)]
        if any(name not in self._columns for name in missing):
            self._warn(f"some rows have {' and '.join(missing)}, unlike the first")
        cells = {
            "file": escape_path(row["file"]),
            "tags": "; ".join(tag["tag"] for tag in tags),
            "scores": "; ".join(str(tag["score"]) for tag in tags),
            "caption": row.get("caption", ""),
            "error": row.get("error", ""),
        }
        self._write_cells([cells[column] for column in self._columns])

    def _warn(self, message: str) -> None:
        if message not in self._warnings:
            logging.warning("--csv: %s: the JSON lines of --output hold them as they are", message)
            self._warnings.add(message)

    def _write_cells(self, cells: Sequence[str]) -> None:
        text = io.StringIO()
        csv.writer(text).writerow(map(escape_cell, cells))
        self._file.write(text.getvalue())
