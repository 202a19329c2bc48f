"""JSON lines: one object per image."""

import json
from pathlib import Path

from jaxtag.inference.writers.base import Row
from jaxtag.storage.atomic_file import AtomicFile


class JsonlWriter:
    """Writes each row as a line of JSON.

    Args:
        path: the file; it gets this name when the writer is closed.
    """

    def __init__(self, path: Path):
        self._file = AtomicFile(path, "--output")

    def write(self, row: Row) -> None:
        """Writes the row of one image."""
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Gives the file its name."""
        self._file.finish()

    def abort(self) -> None:
        """Gives the file up; what was written keeps another name."""
        self._file.close()
