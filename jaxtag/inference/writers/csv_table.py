"""CSV: one row for each picture, for a spreadsheet."""

import csv
import io
from pathlib import Path
from typing import Any

from jaxtag.storage.atomic_file import AtomicFile

_COLUMNS = ("file", "tags", "scores", "caption", "error")


class CsvWriter:
    """Columns file, tags and scores (joined by "; ", in the same order), caption, error."""

    def __init__(self, path: Path):
        self._file = AtomicFile(path, "--csv")
        self._row(_COLUMNS)

    def add(self, line: dict[str, Any]) -> None:
        """Adds the line of one picture."""
        tags = line.get("tags", [])
        self._row(
            (
                line["file"],
                "; ".join(tag["tag"] for tag in tags),
                "; ".join(str(tag["score"]) for tag in tags),
                line.get("caption", ""),
                line.get("error", ""),
            )
        )

    def finish(self) -> None:
        """The file takes its name."""
        self._file.finish()

    def _row(self, cells: tuple[str, ...]) -> None:
        text = io.StringIO()
        csv.writer(text).writerow(cells)
        self._file.write(text.getvalue())
