"""Pictures named on a command line: which files are meant, and their bytes as records."""

import glob
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError

MAX_BYTES = 1 << 28  # a larger file is no picture that we would decode


def list_files(paths: Iterable[str | os.PathLike]) -> list[str]:
    """The files that `paths` name, each once, in order.

    A folder stands for all files below it, sorted, hidden ones (`.name`) left out; a pattern
    (`*`, `?`, `[…]`, `**`) that is no file itself for what matches. A path that does not exist, a
    folder that cannot be listed and, beside other files, a pattern that matches nothing are kept,
    so that they are reported where their result is expected.

    Raises:
        UserError: nothing is left.
    """
    paths = [os.fspath(path) for path in paths]
    expanded = [(path, list(_expand(path))) for path in paths]
    if not any(files for _, files in expanded):
        raise UserError(f"no files in {', '.join(paths) or 'an empty list of paths'}")
    found: dict[str, None] = {}
    for path, files in expanded:
        found |= dict.fromkeys(files or ([] if os.path.isdir(path) else [path]))
    return list(found)


def _expand(path: str) -> Iterable[str]:
    if os.path.isdir(path):
        return _below(path)
    if os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    matches = sorted(glob.glob(path, recursive=True))
    return [file for match in matches for file in (_expand(match))]


def _below(folder: str) -> Iterable[str]:
    closed: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=lambda e: closed.append(e.filename)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, f) for f in sorted(files) if not f.startswith("."))
    yield from closed


class FileRecords:
    """Files as records: `image` (bytes), `file` (as given), `error` (why there are no bytes)."""

    def __init__(self, files: Sequence[str]):
        self._files = list(files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [read(self._files[index]) for index in indices]


def read(file: str) -> dict[str, Any]:
    """One file as a record of `FileRecords`."""
    try:
        status = os.stat(file)
        if stat.S_ISDIR(status.st_mode):  # one in which nothing could be found
            return {"image": b"", "file": file, "error": "a folder that cannot be listed"}
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
            return {"image": b"", "file": file, "error": "not a regular file"}
        if status.st_size > MAX_BYTES:
            reason = f"{status.st_size:,} bytes are more than the {MAX_BYTES:,} allowed"
            return {"image": b"", "file": file, "error": reason}
        return {"image": Path(file).read_bytes(), "file": file, "error": None}
    except OSError as error:
        return {"image": b"", "file": file, "error": error.strerror or str(error)}
    except ValueError as error:  # a name with a null character
        return {"image": b"", "file": file, "error": str(error)}
