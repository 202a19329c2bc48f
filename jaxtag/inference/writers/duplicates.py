"""Groups of images that are there twice, look alike or were taken in a burst, as a table."""

import csv
import io
import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from jaxtag.data import duplicates
from jaxtag.data.duplicates import Fingerprint, Member
from jaxtag.data.spreadsheet import escape_path
from jaxtag.errors import UsageError
from jaxtag.inference.writers.base import Row
from jaxtag.storage import atomic_file

_COLUMNS = ("group", "file", "relation", "width", "height", "bytes", "time")


class DuplicatesWriter:
    """Writes a line for each image of a group: what it has in common with the group's first.

    About 400 bytes of each image are kept until the end.

    Args:
        path: .csv or .json.
        num_threads: threads that decode.

    Attributes:
        groups: after `close`.

    Raises:
        UsageError: `path` ends otherwise.
    """

    def __init__(self, path: Path, num_threads: int):
        if path.suffix.lower() not in (".csv", ".json"):
            raise UsageError(f"--duplicates={path}: must end in .csv or .json")
        self._path = path
        self._pool = ThreadPoolExecutor(num_threads)
        self._pending: deque[Future[Fingerprint | None]] = deque()
        self._max_pending = 4 * num_threads
        self._images: list[Fingerprint] = []
        self.groups: list[list[Member]] = []

    def write(self, row: Row) -> None:
        """Adds one image."""
        if "error" not in row:
            self._pending.append(self._pool.submit(duplicates.fingerprint, row["file"]))
        self._take(self._max_pending)

    def close(self) -> None:
        """Finds the groups and writes them."""
        self._take(0)
        self._pool.shutdown()
        self.groups = duplicates.find_groups(self._images)
        lines = [
            (number, image.file, member.relation, *image.size, image.num_bytes, image.time_text)
            for number, group in enumerate(self.groups, start=1)
            for member in group
            for image in [member.image]
        ]
        if self._path.suffix.lower() == ".json":
            rows = [dict(zip(_COLUMNS, line, strict=True)) for line in lines]
            text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
        else:
            buffer = io.StringIO()
            table = csv.writer(buffer)
            table.writerow(_COLUMNS)
            table.writerows((n, escape_path(file), *rest) for n, file, *rest in lines)
            text = "\ufeff" + buffer.getvalue()
        atomic_file.write_text(self._path, text, "--duplicates")

    def abort(self) -> None:
        """Gives up; nothing was written."""
        self._pool.shutdown(cancel_futures=True)

    def _take(self, max_pending: int) -> None:
        while len(self._pending) > max_pending:
            image = self._pending.popleft().result()
            if image is not None:
                self._images.append(image)
