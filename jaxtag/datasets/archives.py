"""Files of a folder, and of zips and tars that lie in it, read as if all were unpacked.

Nothing is unpacked to disk (a compressed tar is, once, into an anonymous temporary file), no member
can name a place outside its archive, and no member grows beyond a set size when it is read.
"""

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

from jaxtag.errors import UserError

# What one file may hold when it is read: far above any real picture or annotation file.
MAX_PICTURE_BYTES = 256 << 20
MAX_TEXT_BYTES = 2 << 30
# A compressed tar of pictures or text grows less than this many times; a bomb grows more.
MAX_TAR_GROWTH = 100
_MIB = 1 << 20

_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)$", re.IGNORECASE)
_CLUTTER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$|\.git/)")


class ReadError(Exception):
    """A file that cannot be read; its text is the reason, fit for a report to the user."""


class Store:
    """All files below a folder and inside the archives at its top, by relative POSIX path.

    A file that lies unpacked hides a member of the same path. Reading is safe from several threads.
    Use it as a context manager; it keeps its archives open.

    Args:
        source: a folder, or one archive.
        wanted: which archives of the folder to open, by file name; all by default.

    Raises:
        UserError: no such folder, or a damaged archive.
    """

    def __init__(
        self, source: str | os.PathLike, wanted: Callable[[str], bool] = lambda name: True
    ):
        self.path = Path(source).expanduser()
        self._entries: dict[str, tuple[_Archive | None, object]] = {}
        self._archives: list[_Archive] = []
        self.refused: list[tuple[str, str]] = []  # (member, reason) that no reader gets to see
        self._by_name: dict[str, list[str]] | None = None
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist")
        with contextlib.ExitStack() as opened:  # closes what is open should one be damaged
            opened.callback(self.close)
            if self.path.is_dir():
                self._add_folder(wanted)
            elif is_archive(self.path.name):
                self._add_archive(self.path)
            else:
                raise UserError(f"{self.path} is neither a folder nor a zip or tar")
            opened.pop_all()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
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
        """The files whose path ends with `path` (whole components), the shallowest first."""
        parts = _clean(path)
        if not parts:
            return []
        if self._by_name is None:
            index = defaultdict(list)
            for name in self._entries:
                index[name.rpartition("/")[2]].append(name)
            self._by_name = dict(index)
        ending = "/".join(parts)
        found = [
            name
            for name in self._by_name.get(parts[-1], ())
            if name == ending or name.endswith("/" + ending)
        ]
        return sorted(found, key=lambda name: (name.count("/"), name))

    def folder(self, name: str) -> dict[str, str]:
        """Files directly in the folders called `name`, wherever they are: file name -> path."""
        found = {}
        for path in self.names():
            parent, _, base = path.rpartition("/")
            if parent == name or parent.endswith("/" + name):
                found.setdefault(base, path)
        return found

    def size(self, name: str) -> int:
        """Bytes of a file as its folder or archive states them (an archive may lie).

        0 where the file cannot be looked at; `read` will say why.
        """
        archive, entry = self._entries[name]
        if archive is not None:
            return archive.size(entry)
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return 0

    def read(self, name: str, limit: int = MAX_PICTURE_BYTES) -> bytes:
        """The whole of one file.

        Raises:
            ReadError: it is missing, damaged, encrypted, unreadable or larger than `limit` bytes.
        """
        data = self._read(name, 0, limit + 1)
        if len(data) > limit:
            raise ReadError(f"larger than the {limit / _MIB:,.0f} MiB that one file may have")
        return data

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes of one file from `offset` on.

        Raises:
            ReadError: as `read`, or the file ends before.
        """
        if size > MAX_PICTURE_BYTES:
            raise ReadError(f"larger than the {MAX_PICTURE_BYTES / _MIB:,.0f} MiB allowed")
        data = self._read(name, offset, size)
        if len(data) < size:
            raise ReadError(f"{self.where(name)} ends in the middle of it")
        return data

    def tar_members(self, name: str) -> Iterator[tuple[str, int, int]]:
        """(path, offset, size), for `read_part`, of each regular file of a tar in the store.

        Members that point outside of it go to `refused`.

        Raises:
            UserError: it is damaged or compressed.
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
        """At most `limit` bytes of a file from `offset` on; what goes wrong as ReadError."""
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
        """How to name a file to the user: its path, and the archive that holds it."""
        archive, _ = self._entries[name]
        return name if archive is None else f"{archive.path.name}:{name}"

    def _add_folder(self, wanted: Callable[[str], bool]) -> None:
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
                    if wanted(file):
                        archives.append(self.path / file)
                elif not _CLUTTER.search(name):
                    self._entries[name] = (None, None)
        for archive in archives:
            self._add_archive(archive)

    def _add_archive(self, path: Path) -> None:
        kind = _Zip if path.suffix.lower() == ".zip" else _Tar
        try:
            archive = kind(path)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            raise UserError(
                f"{path} is damaged or only partly downloaded ({error}): get it again"
            ) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        self._archives.append(archive)
        for name, entry in archive.members:
            parts = _clean(name)
            if parts is None:
                self._refuse(path.name, name)
                continue
            clean = "/".join(parts)
            if not _CLUTTER.search(clean):
                self._entries.setdefault(clean, (archive, entry))


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


class _Archive:
    """`members`: (name, entry) of each regular file; `read` and `size` take the entry."""

    path: Path
    members: list[tuple[str, object]]


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
    """A tar by the positions of its members; a compressed one is unpacked into a nameless file."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("rb")
        with contextlib.ExitStack() as opened:  # closes the file should it be damaged
            opened.callback(self.close)
            if not path.name.lower().endswith(".tar"):
                self._file = _unpacked(path, self._file)
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                self.members = [
                    (member.name, (member.offset_data, member.size))
                    for member in tar
                    if member.isreg() and not member.issparse()
                ]
            opened.pop_all()
        self._lock = threading.Lock()

    def size(self, entry: tuple[int, int]) -> int:
        return entry[1]

    def read(self, entry: tuple[int, int], offset: int, limit: int) -> bytes:
        start, size = entry
        wanted = max(0, min(size - offset, limit))
        with self._lock:
            self._file.seek(start + offset)
            data = self._file.read(wanted)
        if len(data) < wanted:
            raise EOFError(f"{self.path.name} ends in the middle of this file")
        return data

    def close(self) -> None:
        self._file.close()


class _Window(io.RawIOBase):
    """A file object over a function that reads `limit` bytes from `offset` on."""

    def __init__(self, read: Callable[[int, int], bytes]):
        self._source, self._place = read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            raise io.UnsupportedOperation("the end is not known")
        self._place = offset + (self._place if whence == os.SEEK_CUR else 0)
        return self._place

    def readinto(self, buffer) -> int:
        data = self._source(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _unpacked(path: Path, packed):
    """The decompressed bytes of an open gzip, bzip2 or xz file, as a temporary file."""
    head = packed.read(6)
    packed.seek(0)
    opener = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}.get(head[:2])
    if opener is None:
        raise tarfile.ReadError("neither gzip, bzip2 nor xz data")
    allowed = max(path.stat().st_size * MAX_TAR_GROWTH, 64 * _MIB)
    with contextlib.ExitStack() as opened:  # closes the copy should the original be damaged
        target = opened.enter_context(tempfile.TemporaryFile(prefix="jaxtag-"))
        try:
            with packed, opener(packed) as stream:
                while block := stream.read(_MIB):
                    target.write(block)
                    if target.tell() > allowed:
                        raise UserError(
                            f"{path} grows more than {MAX_TAR_GROWTH} times when it is unpacked: "
                            "refused as a decompression bomb"
                        )
        except (lzma.LZMAError, zlib.error) as error:
            raise tarfile.ReadError(str(error)) from error
        target.seek(0)
        opened.pop_all()
    return target
