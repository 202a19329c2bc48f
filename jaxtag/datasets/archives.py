"""Files of a folder, and of zips and tars that lie in it, read as if all were unpacked.

Nothing is unpacked to disk (but a compressed tar, once, into an anonymous temporary file), no
member can name a path outside its archive, and no member grows beyond a set size when it is read.
"""

import abc
import bz2
import contextlib
import functools
import gzip
import io
import lzma
import os
import re
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from jaxtag.errors import UserError

# The size that one file may have when it is read: far above any real image or annotation file.
MAX_IMAGE_BYTES = 256 << 20
MAX_TEXT_BYTES = 2 << 30
# A compressed tar of images or text grows less than this many times; a bomb grows more.
MAX_TAR_GROWTH = 100
_MIB = 1 << 20

_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)$", re.IGNORECASE)
_CLUTTER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$|\.git/)")


class ReadError(Exception):
    """A file that cannot be read; its text is the reason, fit for a report to the user."""


class SourceFiles:
    """All files below a folder and inside the archives at its top, by relative POSIX path.

    A file that lies unpacked hides a member of the same path. Reading is safe from several threads.
    Use it as a context manager; it keeps its archives open.

    Args:
        root: A folder, or one archive.
        accept: Which archives of the folder to open, by file name; all by default.

    Attributes:
        path: The folder or archive.
        refused: (member, reason) of members that no reader gets to see.

    Raises:
        UserError: There is no such folder, or an archive is damaged.
    """

    def __init__(
        self, root: str | os.PathLike[str], accept: Callable[[str], bool] = lambda name: True
    ):
        self.path = Path(root).expanduser()
        self._entries: dict[str, tuple[_Archive | None, Any]] = {}
        self._archives: list[_Archive] = []
        self.refused: list[tuple[str, str]] = []
        self._by_name: dict[str, list[str]] | None = None
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist")
        with contextlib.ExitStack() as stack:  # closes what is open should one be damaged
            stack.callback(self.close)
            if self.path.is_dir():
                self._add_folder(accept)
            elif is_archive(self.path.name):
                self._add_archive(self.path)
            else:
                raise UserError(f"{self.path} is neither a folder nor a zip or tar")
            stack.pop_all()

    def __enter__(self) -> "SourceFiles":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the archives."""
        for archive in self._archives:
            archive.close()

    def archives(self) -> list[Path]:
        """The zips and tars that are open."""
        return [archive.path for archive in self._archives]

    def names(self) -> list[str]:
        """Every file's relative path, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def find(self, path: str) -> list[str]:
        """Finds the files whose path ends with `path` (whole components), the shallowest first."""
        parts = _clean(path)
        if not parts:
            return []
        if self._by_name is None:
            index = defaultdict(list)
            for name in self._entries:
                index[name.rpartition("/")[2]].append(name)
            self._by_name = dict(index)
        suffix = "/".join(parts)
        matches = [
            name
            for name in self._by_name.get(parts[-1], ())
            if name == suffix or name.endswith("/" + suffix)
        ]
        return sorted(matches, key=lambda name: (name.count("/"), name))

    def first(self, *paths: str) -> str | None:
        """The shallowest file that `find` gives for the first of `paths` that is there."""
        return next((matches[0] for path in paths if (matches := self.find(path))), None)

    def folder(self, name: str) -> dict[str, str]:
        """Files directly in the folders called `name`, wherever they are: file name -> path."""
        paths: dict[str, str] = {}
        for path in self.names():
            parent, _, base = path.rpartition("/")
            if parent == name or parent.endswith("/" + name):
                paths.setdefault(base, path)
        return paths

    def size(self, name: str) -> int:
        """Size of a file in bytes as its folder or archive states it (an archive may lie).

        0 where the file cannot be looked at; `read` says why.
        """
        archive, entry = self._entries[name]
        if archive is not None:
            return archive.size(entry)
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return 0

    def read(self, name: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Reads one file as a whole.

        Raises:
            ReadError: It is missing, damaged, encrypted, unreadable or larger than `limit` bytes.
        """
        data = self._read(name, 0, limit + 1)
        if len(data) > limit:
            raise ReadError(f"larger than the {limit / _MIB:,.0f} MiB that one file may have")
        return data

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """Reads `size` bytes of one file from `offset` on.

        Raises:
            ReadError: As `read`, or the file ends before.
        """
        if size > MAX_IMAGE_BYTES:
            raise ReadError(f"larger than the {MAX_IMAGE_BYTES / _MIB:,.0f} MiB allowed")
        data = self._read(name, offset, size)
        if len(data) < size:
            raise ReadError(f"{self.where(name)} ends in the middle of it")
        return data

    def tar_members(self, name: str) -> Iterator[tuple[str, int, int]]:
        """Yields (path, offset, size), for `read_part`, of each regular file of a tar.

        Members that point outside of it go to `refused`.

        Raises:
            UserError: The tar is damaged or compressed.
        """
        try:
            window = io.BufferedReader(_Window(functools.partial(self._read, name)))
            with tarfile.open(fileobj=window, mode="r:") as tar:
                for member in tar:
                    parts = _clean(member.name)
                    if parts is None:
                        self._refuse(self.where(name), member.name)
                    elif member.isreg() and not member.issparse():
                        yield "/".join(parts), member.offset_data, member.size
        except (tarfile.TarError, ReadError) as error:
            raise UserError(
                f"{self.where(name)} is damaged or only partly downloaded ({error}): get it again"
            ) from error

    def _read(self, name: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a file from `offset` on; all errors as ReadError."""
        try:
            archive, entry = self._entries[name]
        except KeyError:
            raise ReadError("the file is missing") from None
        try:
            if archive is not None:
                return archive.read(entry, offset, limit)
            with open(self.path / name, "rb") as file:
                file.seek(offset)
                return file.read(limit)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            # RuntimeError and its NotImplementedError: encryption, odd compression (zipfile).
            reason = error.strerror if isinstance(error, OSError) else None
            raise ReadError(f"cannot be read: {reason or error or type(error).__name__}") from error

    def _refuse(self, archive: str, member: str) -> None:
        self.refused.append((f"{archive}:{member}", "its name points outside of the archive"))

    def where(self, name: str) -> str:
        """The name of a file in messages: its path, after the archive that holds it."""
        archive, _ = self._entries[name]
        return name if archive is None else f"{archive.path.name}:{name}"

    def _add_folder(self, accept: Callable[[str], bool]) -> None:
        archives = []
        seen = set()
        # Links to folders are followed (large data sets often lie on another disk), each once.
        for folder, folders, files in os.walk(self.path, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            inside = Path(folder).relative_to(self.path).as_posix()
            for file in sorted(files):
                name = file if inside == "." else f"{inside}/{file}"
                if inside == "." and is_archive(file):
                    if accept(file):
                        archives.append(self.path / file)
                elif not _CLUTTER.search(name):
                    self._entries[name] = (None, None)
        for archive in archives:
            self._add_archive(archive)

    def _add_archive(self, path: Path) -> None:
        try:
            archive = _Zip(path) if path.suffix.lower() == ".zip" else _Tar(path)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            raise UserError(
                f"{path} is damaged or only partly downloaded ({error}): get it again"
            ) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        self._archives.append(archive)
        for member, entry in archive.members:
            parts = _clean(member)
            if parts is None:
                self._refuse(path.name, member)
                continue
            name = "/".join(parts)
            if not _CLUTTER.search(name):
                self._entries.setdefault(name, (archive, entry))


def is_archive(name: str) -> bool:
    """Whether a file name is one of a zip or tar."""
    return bool(_ARCHIVE.search(name))


def _clean(name: str) -> tuple[str, ...] | None:
    """The components of a relative path; None for one that leads outside."""
    name = name.replace("\\", "/")
    if not name or name.startswith("/") or re.match(r"^[A-Za-z]:", name) or "\0" in name:
        return None
    parts = PurePosixPath(name).parts
    return None if ".." in parts else parts


class _Archive(abc.ABC):
    """An open archive.

    Attributes:
        path: Of the archive.
        members: (name, entry) of each regular file; `size` and `read` take the entry.
    """

    path: Path
    members: list[tuple[str, Any]]

    @abc.abstractmethod
    def size(self, entry: Any) -> int:
        """Bytes of a member."""

    @abc.abstractmethod
    def read(self, entry: Any, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a member from `offset` on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the file."""


class _Zip(_Archive):
    def __init__(self, path: Path):
        self.path = path
        self._file = zipfile.ZipFile(path)
        self.members = [
            (info.filename, info)
            for info in self._file.infolist()
            if not info.is_dir() and (info.external_attr >> 28) in (0, 8)  # unset, or regular file
        ]

    def size(self, entry: zipfile.ZipInfo) -> int:
        return entry.file_size

    def read(self, entry: zipfile.ZipInfo, offset: int, limit: int) -> bytes:
        with self._file.open(entry) as member:
            member.seek(offset)
            return member.read(limit)

    def close(self) -> None:
        self._file.close()


class _Tar(_Archive):
    """A tar by the offsets of its members; a compressed one is unpacked into a nameless file."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO = path.open("rb")
        with contextlib.ExitStack() as stack:  # closes the file should it be damaged
            stack.callback(self.close)
            if not path.name.lower().endswith(".tar"):
                self._file = _decompress(path, self._file)
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                self.members = [
                    (member.name, (member.offset_data, member.size))
                    for member in tar
                    if member.isreg() and not member.issparse()
                ]
            stack.pop_all()
        self._lock = threading.Lock()

    def size(self, entry: tuple[int, int]) -> int:
        return entry[1]

    def read(self, entry: tuple[int, int], offset: int, limit: int) -> bytes:
        start, size = entry
        count = max(0, min(size - offset, limit))
        with self._lock:
            self._file.seek(start + offset)
            data = self._file.read(count)
        if len(data) < count:
            raise EOFError(f"{self.path.name} ends in the middle of this file")
        return data

    def close(self) -> None:
        self._file.close()


class _Window(io.RawIOBase):
    """A file object over a function that reads `limit` bytes from `offset` on."""

    def __init__(self, read: Callable[[int, int], bytes]):
        self._read_at, self._offset = read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            raise io.UnsupportedOperation("the end is not known")
        self._offset = offset + (self._offset if whence == os.SEEK_CUR else 0)
        return self._offset

    def readinto(self, buffer: Any) -> int:
        data = self._read_at(self._offset, len(buffer))
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)


def _decompress(path: Path, compressed: BinaryIO) -> BinaryIO:
    """The content of an open gzip, bzip2 or xz file, as a temporary file."""
    magic = compressed.read(2)
    compressed.seek(0)
    limit = max(path.stat().st_size * MAX_TAR_GROWTH, 64 * _MIB)
    with contextlib.ExitStack() as stack:  # closes the copy should the original be damaged
        copy = stack.enter_context(tempfile.TemporaryFile(prefix="jaxtag-"))
        try:
            with compressed, _open_compressed(magic, compressed) as stream:
                while block := stream.read(_MIB):
                    copy.write(block)
                    if copy.tell() > limit:
                        raise UserError(
                            f"{path} grows more than {MAX_TAR_GROWTH} times when it is unpacked: "
                            "refused as a decompression bomb"
                        )
        except (lzma.LZMAError, zlib.error) as error:
            raise tarfile.ReadError(str(error)) from error
        copy.seek(0)
        stack.pop_all()
    return copy


def _open_compressed(magic: bytes, file: BinaryIO) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    if magic == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if magic == b"BZ":
        return bz2.BZ2File(file)
    if magic == b"\xfd7":
        return lzma.LZMAFile(file)
    raise tarfile.ReadError("neither gzip, bzip2 nor xz data")
