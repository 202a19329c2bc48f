"""Write-then-rename: a file has its name only when it is complete.

A file is written as `PATH.partial` and renamed to `PATH`, so that no reader and no killed process
ever leaves half of one. An OSError (a full disk, a folder that is read-only) becomes a UserError
that names the file.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from jaxtag.errors import write_error

# Python holds a byte of a file name that is not UTF-8 as half of a surrogate pair.
# backslashreplace writes it as \udcXX, which means the same in JSON.
_ENCODING_ERRORS = "backslashreplace"


class AtomicFile:
    """A text file that grows in `PATH.partial` until `finish` renames it.

    Args:
        path: The file.
        setting: The flag that names it, for messages: "--output".

    Raises:
        UserError: The file cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str], setting: str = ""):
        self._path, self._setting = Path(path), setting
        with _os_error_as_user_error(self._path, setting):
            _check_not_folder(self._path)
            self._file = partial_path(self._path).open(
                "w", buffering=1, encoding="utf-8", errors=_ENCODING_ERRORS, newline=""
            )

    def write(self, text: str) -> None:
        """Appends `text`. Raises UserError where it cannot."""
        with _os_error_as_user_error(self._path, self._setting):
            self._file.write(text)

    def finish(self) -> None:
        """Closes the file and gives it its name. Raises UserError where it cannot."""
        with _os_error_as_user_error(self._path, self._setting):
            self._file.close()
            partial_path(self._path).replace(self._path)


def write_text(path: str | os.PathLike[str], text: str, setting: str = "") -> None:
    """Writes a whole text file in UTF-8; see `replacing`."""
    write_bytes(path, text.encode("utf-8", _ENCODING_ERRORS), setting)


def write_bytes(
    path: str | os.PathLike[str], data: bytes, setting: str = "", *, sync: bool = False
) -> None:
    """Writes a whole file; see `replacing`."""
    with replacing(path, setting, sync=sync) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], setting: str = "", *, sync: bool = False
) -> Iterator[Path]:
    """Gives the path to write to; renames it to `path` at the end of the `with` block.

    Missing parent folders are created. When the block fails, the partial file is deleted and
    `path` is as it was.

    Args:
        path: The file.
        setting: The flag that names it, for messages: "--output".
        sync: Wait until the file and its name are on disk, so that they survive a power failure.

    Raises:
        UserError: An OSError occurred in the block or when the file was renamed.
    """
    path = Path(path)
    partial = partial_path(path)
    try:
        with _os_error_as_user_error(path, setting):
            _check_not_folder(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if sync:
                _sync(partial)
            partial.replace(path)
            if sync:
                _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Where a file is written until it is complete."""
    return Path(f"{os.fspath(path)}.partial")


@contextlib.contextmanager
def _os_error_as_user_error(path: Path, setting: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(path, error, setting) from error


def _check_not_folder(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
