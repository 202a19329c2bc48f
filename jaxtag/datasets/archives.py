"""Zips and tars, opened for reading members at random; bombs and odd names are refused."""

import abc
import bz2
import contextlib
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from jaxtag.errors import UserError

# The size that one file may have when it is read: far above any real image or annotation file.
MAX_IMAGE_BYTES = 256 << 20
MAX_TEXT_BYTES = 2 << 30
# A compressed tar of images or text, or a member of a zip, grows less than this many times when it
# is unpacked; a bomb grows more. Up to _FREE_GROWTH bytes anything may grow.
MAX_GROWTH = 100
_MIB = 1 << 20
_ZIP_UTF8 = 1 << 11  # the flag of a member whose name is UTF-8
_FREE_GROWTH = 64 * _MIB

_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)$", re.IGNORECASE)


class ReadError(Exception):
    """A file that cannot be read; its text is the reason, fit for a report to the user."""


def is_archive(name: str) -> bool:
    """Whether a file name is one of a zip or tar."""
    return bool(_ARCHIVE.search(name))


class Archive(abc.ABC):
    """An open archive.

    Attributes:
        path: Of the archive.
        members: (name, entry) of each regular file; `size` and `read` take the entry.
        doubtful_name: A name whose encoding is not known; "" where all are.
    """

    path: Path
    members: list[tuple[str, Any]]
    doubtful_name: str = ""

    @abc.abstractmethod
    def size(self, entry: Any) -> int:
        """Bytes of a member."""

    def checksum(self, entry: Any) -> bytes | None:
        """A checksum of a member's content that costs nothing; None without one."""
        del entry
        return None

    @abc.abstractmethod
    def read(self, entry: Any, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of a member from `offset` on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the file."""


class ZipArchive(Archive):
    """A zip, whose members are found by its table at the end."""

    def __init__(self, path: Path):
        self.path = path
        self._file = zipfile.ZipFile(path)
        self.members = []
        for info in self._file.infolist():
            name = self._name(info)
            # Its type is unset, or it is a regular file.
            if not name.endswith("/") and (info.external_attr >> 28) in (0, 8):
                self.members.append((name, info))

    def _name(self, info: zipfile.ZipInfo) -> str:
        """A member's name: UTF-8 where it can be, also without the flag that says so.

        macOS and many servers leave the flag out. What is no UTF-8 is read as code page 437, in
        which the format was defined (APPNOTE.TXT, appendix D).
        """
        if info.flag_bits & _ZIP_UTF8 or info.filename.isascii():
            return info.filename
        try:
            return info.filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            self.doubtful_name = self.doubtful_name or info.filename
            return info.filename

    def size(self, entry: zipfile.ZipInfo) -> int:
        return entry.file_size

    def checksum(self, entry: zipfile.ZipInfo) -> bytes:
        """The CRC that the zip states."""
        return entry.CRC.to_bytes(4)

    def read(self, entry: zipfile.ZipInfo, offset: int, limit: int) -> bytes:
        with self._file.open(entry) as member:
            member.seek(offset)
            allowed = max(entry.compress_size * MAX_GROWTH, _FREE_GROWTH)
            data = member.read(min(limit, allowed + 1))
        if len(data) > allowed:
            raise ReadError(
                f"it grows more than {MAX_GROWTH} times when it is unpacked: refused as a "
                "decompression bomb"
            )
        return data

    def close(self) -> None:
        self._file.close()


class TarArchive(Archive):
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


class Window(io.RawIOBase):
    """A file object over a function that reads `limit` bytes from `offset` on.

    Args:
        size: Of the file, where it is known.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int | None = None):
        self._read_at, self._size, self._offset = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and self._size is None:
            raise io.UnsupportedOperation("the end is not known")
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size or 0}
        self._offset = starts[whence] + offset
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
    limit = max(path.stat().st_size * MAX_GROWTH, _FREE_GROWTH)
    with contextlib.ExitStack() as stack:  # closes the copy should the original be damaged
        copy = stack.enter_context(tempfile.TemporaryFile(prefix="jaxtag-"))
        try:
            with compressed, _open_compressed(magic, compressed) as stream:
                while block := stream.read(_MIB):
                    copy.write(block)
                    if copy.tell() > limit:
                        raise UserError(
                            f"{path} grows more than {MAX_GROWTH} times when it is unpacked: "
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
