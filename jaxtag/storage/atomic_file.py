"""A text file that appears when all of it is written; a full disk is a message."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from jaxtag.errors import UserError


class AtomicFile:
    """Text that grows in PATH.partial and takes the name PATH when it is finished.

    Args:
      path: the file.
      setting: what named it, for messages: "--output".
    """

    def __init__(self, path: Path, setting: str):
        self._path, self._setting = path, setting
        with self._told():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            # Python holds a byte of a file's name that is not UTF-8 as half of a surrogate pair.
            # backslashreplace spells that as \udcXX, which in JSON means the very same.
            self._file = partial_path(path).open(
                "w", buffering=1, encoding="utf-8", errors="backslashreplace", newline=""
            )

    def write(self, text: str) -> None:
        """Adds `text`."""
        with self._told():
            self._file.write(text)

    def finish(self) -> None:
        """Nothing more comes: the file takes its name."""
        with self._told():
            self._file.close()
            partial_path(self._path).replace(self._path)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """A full disk, say, is something that the user can put right."""
        try:
            yield
        except OSError as error:
            message = f"{self._setting}={self._path} cannot be written: {error.strerror}"
            raise UserError(message) from error


def partial_path(path: Path) -> Path:
    """Where the file grows."""
    return Path(f"{path}.partial")
