"""Image files named on a command line: which files are meant, and their bytes as records."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.errors import UserError

MAX_BYTES = 1 << 28  # a larger file is no image that we would decode


def list_files(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Lists the files that `paths` name, each once, in order.

    A folder stands for all files below it, sorted, hidden ones (`.name`) left out; a pattern
    (`*`, `?`, `[…]`, `**`) that is no file itself for what matches. A path that does not exist, a
    folder that cannot be listed and, beside other files, a pattern that matches nothing are kept,
    so that they are reported where their result is expected.

    Raises:
        UserError: No file is left.
    """
    names = [os.fspath(path) for path in paths]
    expanded = [(name, list(_expand(name))) for name in names]
    if not any(files for _, files in expanded):
        raise UserError(f"no files in {', '.join(names) or 'an empty list of paths'}")
    unique: dict[str, None] = {}
    for name, files in expanded:
        unique |= dict.fromkeys(files or ([] if os.path.isdir(name) else [name]))
    return list(unique)


def _expand(path: str) -> Iterable[str]:
    if os.path.isdir(path):
        return _files_below(path)
    if os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    matches = sorted(glob.glob(path, recursive=True))
    return [file for match in matches for file in _expand(match)]


def _files_below(folder: str) -> Iterator[str]:
    unreadable: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=lambda e: unreadable.append(e.filename)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, f) for f in sorted(files) if not f.startswith("."))
    yield from unreadable


class ImageSource:
    """Images to predict, as records: `image`, `file` (as given), `error` (why there is no image).

    Args:
        images: Paths of files, encoded bytes, or arrays uint8 [H, W, 3]; the latter two have the
            file "".
    """

    def __init__(self, images: Sequence[str | bytes | np.ndarray]):
        self._images = list(images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, indices: Sequence[int], /) -> list[dict[str, Any]]:
        """The records at `indices`; files are read."""
        return [self._record(self._images[index]) for index in indices]

    def _record(self, image: str | bytes | np.ndarray) -> dict[str, Any]:
        if isinstance(image, str):
            return read(image)
        return {"image": image, "file": "", "error": None}


def read(file: str) -> dict[str, Any]:
    """Reads one file as a record of `ImageSource`."""
    try:
        return {"image": _read_bytes(file), "file": file, "error": None}
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # a name with a null character, or what _read_bytes refuses
        reason = str(error)
    return {"image": b"", "file": file, "error": reason}


def _read_bytes(file: str) -> bytes:
    status = os.stat(file)
    if stat.S_ISDIR(status.st_mode):  # one in which nothing could be found
        raise ValueError("a folder that cannot be listed")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
        raise ValueError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"{status.st_size:,} bytes are more than the {MAX_BYTES:,} allowed")
    return Path(file).read_bytes()
