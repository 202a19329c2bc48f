"""Image files named on a command line: which files are meant, and their bytes as records."""

import errno
import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.data.stored_images import StoredImage
from jaxtag.errors import StorageError, UserError
from jaxtag.storage import store_errors, transfer
from jaxtag.storage.paths import is_store, make_path
from jaxtag.storage.store_errors import retry

MAX_BYTES = 1 << 28  # a larger file is no image that we would decode
# A folder that several links lead to is listed at most so many times.
_MAX_LINKS = 16
# What systems, network drives and photo programs keep in folders of pictures, thumbnails among it.
_SYSTEM_FOLDER = re.compile(
    r"(\.(?!\.?$).*|__MACOSX|__pycache__|@eaDir|@Recycle|@Recently-Snapshot|#recycle|#snapshot"
    r"|\$RECYCLE\.BIN|RECYCLER|System Volume Information|lost\+found|Network Trash Folder)$",
    re.IGNORECASE,
)
_SYSTEM_FILE = re.compile(
    r"(\..*|(eh)?thumbs(_[^.]*)?\.db|desktop\.ini|Picasa\.ini|ZbThumbnail\.info|Icon\r"
    r"|SYNO(FILE_THUMB|PHOTO_THUMB|INDEX_MEDIA_INFO).*)$",
    re.IGNORECASE,
)
_BACKUP_SUFFIX = "_original"  # of images that exiftool, or jaxtag, wrote keywords into
# Files that lie among pictures and are none: of cameras, phones, photo programs and ourselves.
_OTHER_SUFFIXES = frozenset(
    [
        *("json", "jsonl", "ndjson", "csv", "tsv", "txt", "md", "xml", "html", "htm", "js", "css"),
        *("xmp", "aae", "thm", "lrv", "ctg", "pp3", "dop", "cos", "on1", "lrcat", "db", "ini"),
        *("mov", "mp4", "m4v", "avi", "mkv", "webm", "mts", "m2ts", "3gp", "mpg", "mpeg", "wmv"),
        *("mp3", "m4a", "wav", "aac", "flac", "ogg", "zip", "tar", "gz", "tgz", "bz2", "xz", "7z"),
        *("rar", "doc", "docx", "xls", "xlsx", "ods", "odt", "py", "log", "lnk", "url", "lock"),
        *("info", "nfo", "md5", "sha256", "partial", "parquet", "npz", "npy", "safetensors"),
    ]
)


def list_files(
    paths: Iterable[str | os.PathLike[str]], left_out: Counter[str] | None = None
) -> list[str]:
    """Lists the files that `paths` name, each once, in order.

    A folder stands for all files below it, sorted, links to folders followed; hidden ones
    (`.name`), those of systems (`Thumbs.db`, `@eaDir`) and those whose ending is not that of a
    picture (`.xmp`, `.mov`) are left out. A pattern (`*`, `?`, `[…]`, `**`) that is no file itself
    stands for what matches. A path that does not exist, a folder that cannot be listed and, beside
    other files, a pattern that matches nothing are kept, so that they are reported where their
    result is expected.

    Args:
        paths: Files, folders and patterns.
        left_out: Counts the files of folders that are no pictures, by their ending.

    Raises:
        UserError: No file is left.
    """
    names = [os.fspath(path) for path in paths]
    left_out = Counter() if left_out is None else left_out
    expanded = [(name, list(_expand(name, left_out))) for name in names]
    if not any(files for _, files in expanded):
        others = f" but {describe_left_out(left_out)}" if left_out else ""
        raise UserError(f"no files in {', '.join(names) or 'an empty list of paths'}{others}")
    unique: dict[str, None] = {}
    for name, files in expanded:
        unique |= dict.fromkeys(files or ([] if os.path.isdir(name) else [name]))
    return list(unique)


def describe_left_out(left_out: Counter[str]) -> str:
    """What `list_files` left out, in a line: `12 files that are no pictures (9 .json, 3 .xmp)`."""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in left_out.most_common(5))
    more = ", …" if len(left_out) > 5 else ""
    return f"{left_out.total()} file(s) that are no pictures ({kinds}{more})"


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden, or one that systems and network drives make beside pictures."""
    return bool(_SYSTEM_FOLDER.match(name))


def is_system_file(name: str) -> bool:
    """Whether a file is hidden, or one that systems and photo programs make beside pictures."""
    return bool(_SYSTEM_FILE.match(name))


def _expand(path: str, left_out: Counter[str]) -> Iterable[str]:
    if is_store(make_path(path)):
        return _expand_in_store(path, left_out)
    if os.path.isdir(path):
        return _files_below(path, left_out)
    if os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    matches = sorted(glob.glob(path, recursive=True))
    return [file for match in matches for file in _expand(match, left_out)]


def _files_below(folder: str, left_out: Counter[str]) -> Iterator[str]:
    unreadable: list[str] = []
    visits: Counter[str] = Counter()

    def is_entered(parent: str, name: str) -> bool:
        if is_system_folder(name):
            return False
        path = os.path.join(parent, name)
        if not os.path.islink(path):
            return True
        real = os.path.realpath(path)
        visits[real] += 1
        # A link to a folder that it lies in leads round and round.
        above = os.path.join(os.path.realpath(parent), "").startswith(os.path.join(real, ""))
        return not above and visits[real] <= _MAX_LINKS

    for parent, folders, files in os.walk(
        folder, onerror=lambda e: unreadable.append(e.filename), followlinks=True
    ):
        folders[:] = sorted(name for name in folders if is_entered(parent, name))
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if is_system_file(name) or suffix.endswith(_BACKUP_SUFFIX):
                continue
            if suffix[1:] in _OTHER_SUFFIXES:
                left_out[suffix] += 1
            else:
                yield os.path.join(parent, name)
    yield from unreadable


def _expand_in_store(path: str, left_out: Counter[str]) -> list[str]:
    """What a name or pattern of an object store stands for; see `list_files`."""
    if not glob.has_magic(path):
        return _objects_below(path, left_out) or [path]
    scheme = path.partition("://")[0]
    matches = retry(lambda: transfer.file_system(path).glob(path), path)
    names = [f"{scheme}://{match}" for match in sorted(matches)]
    return [file for name in names for file in _objects_below(name, left_out) or [name]]


def _objects_below(folder: str, left_out: Counter[str]) -> list[str]:
    files = []
    for name in sorted(transfer.list_objects(folder)):
        *folders, last = name.split("/")
        suffix = os.path.splitext(last)[1].lower()
        if any(map(is_system_folder, folders)) or is_system_file(last) or not last:
            continue
        if suffix[1:] in _OTHER_SUFFIXES:
            left_out[suffix] += 1
        else:
            files.append(f"{folder.rstrip('/')}/{name}")
    return files


class ImageSource:
    """Images to predict, as records: `image`, `file` (as given), `error` (why there is no image).

    Args:
        images: Paths of files, images in stores, encoded bytes, or arrays uint8 [H, W, 3]; the
            latter two have the file "".
    """

    def __init__(self, images: Sequence[str | bytes | np.ndarray | StoredImage]):
        self._images = list(images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, indices: Sequence[int], /) -> list[dict[str, Any]]:
        """The records at `indices`; files are read."""
        return [self._record(self._images[index]) for index in indices]

    def _record(self, image: str | bytes | np.ndarray | StoredImage) -> dict[str, Any]:
        if isinstance(image, str):
            return read(image)
        if isinstance(image, StoredImage):
            return _record(image.file, image.read)
        return {"image": image, "file": "", "error": None}


def read(file: str) -> dict[str, Any]:
    """Reads one file as a record of `ImageSource`."""
    return _record(file, lambda: _read_bytes(file))


def _record(file: str, read_image: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"image": read_image(), "file": file, "error": None}
    except StorageError:  # the image may be good, and another attempt succeed
        raise
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # a name with a null character, or what _read_bytes refuses
        reason = str(error)
    return {"image": b"", "file": file, "error": reason}


def _read_bytes(file: str) -> bytes:
    if is_store(file):
        return _read_object(file)
    status = os.stat(file)
    if stat.S_ISDIR(status.st_mode):  # one in which nothing could be found
        raise ValueError("a folder that cannot be listed")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe could wait for ever
        raise ValueError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"{status.st_size:,} bytes are more than the {MAX_BYTES:,} allowed")
    return Path(file).read_bytes()


def _read_object(file: str) -> bytes:
    system = transfer.file_system(file)
    try:
        data: bytes = retry(lambda: system.cat_file(file, end=MAX_BYTES + 1), file)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file) from error
    except Exception as error:
        line = store_errors.as_user_error(error, file)
        if isinstance(line, StorageError):
            raise line from error
        raise ValueError(store_errors.first_line(error)) from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than the {MAX_BYTES:,} bytes allowed")
    return data
