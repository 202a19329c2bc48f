"""JSON lines: one object for each picture."""

import json
from pathlib import Path
from typing import Any

from jaxtag.storage.atomic_file import AtomicFile


class JsonlWriter:
    """Writes each line as it is, as JSON."""

    def __init__(self, path: Path):
        self._file = AtomicFile(path, "--output")

    def add(self, line: dict[str, Any]) -> None:
        """Adds the line of one picture."""
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """The file takes its name."""
        self._file.finish()
