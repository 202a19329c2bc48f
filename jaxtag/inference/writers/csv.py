"""CSV: one row per image, for spreadsheets."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from jaxtag.inference.writers.base import Row
from jaxtag.storage.atomic_file import AtomicFile

_COLUMNS = ("file", "tags", "scores", "caption", "error")


class CsvWriter:
    """Writes the columns file, tags, scores, caption, error.

    Tags and their scores are joined by "; ", in the same order.

    Args:
        path: the file; it gets this name when the writer is closed.
    """

    def __init__(self, path: Path):
        self._file = AtomicFile(path, "--csv")
        self._write_cells(_COLUMNS)

    def write(self, row: Row) -> None:
        """Writes the row of one image."""
        tags = row.get("tags", [])
        self._write_cells(
            (
                row["file"],
                "; ".join(tag["tag"] for tag in tags),
                "; ".join(str(tag["score"]) for tag in tags),
                row.get("caption", ""),
                row.get("error", ""),
            )
        )

    def close(self) -> None:
        """Gives the file its name."""
        self._file.finish()

    def _write_cells(self, cells: Sequence[str]) -> None:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        self._file.write(text.getvalue())
