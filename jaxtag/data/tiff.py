"""The structure of a TIFF: its pages, and the preview that camera raw keeps as a JPEG.

TIFF 6.0, section 2 (directories of entries); TIFF/EP (ISO 12234-2) and DNG 1.7 (raw data in
sub-directories); CR2, NEF and ARW are laid out in the same way. Offsets that lead outside are
ignored, and so is what comes after _MAX_DIRECTORIES.
"""

import dataclasses
import struct

from jaxtag.data.jpeg import read_header

MAGIC = (b"II*\0", b"MM\0*")
_MAX_DIRECTORIES = 100
_MAX_ENTRIES, _MAX_VALUES = 4096, 1024
_SIZES = {1: 1, 3: 2, 4: 4, 13: 4}  # BYTE, SHORT, LONG, IFD
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I"}
_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SUB_DIRECTORIES = 254, 259, 262, 274, 330
_STRIPS, _STRIP_SIZES, _JPEG, _JPEG_SIZE, _DNG_VERSION = 273, 279, 513, 514, 50706
_RAW = (32803, 34892)  # photometric interpretation: color filter array, linear raw
_JPEG_COMPRESSIONS = (6, 7)
_REDUCED = 1  # bit of the subfile's type: a smaller version of another image
_CODED_LIKE_PHOTOS = (0xC0, 0xC1, 0xC2)  # frames of JPEG; raw data are lossless ones


@dataclasses.dataclass(frozen=True)
class RawPreview:
    """The largest JPEG in a camera's raw file.

    Attributes:
        jpeg: Its bytes.
        orientation: Of the raw file, by EXIF, 1 to 8.
    """

    jpeg: bytes
    orientation: int


def raw_preview(data: bytes) -> RawPreview | None:
    """The preview of camera raw; None for other images, and for raw without one."""
    chained, directories = _directories(data)
    if not directories or not _is_raw(data, directories):
        return None
    best, most_pixels = b"", 0
    for directory in directories:
        jpeg = _jpeg_of(data, directory)
        if jpeg[:2] != b"\xff\xd8":
            continue
        header = read_header(jpeg)
        if header.kind in _CODED_LIKE_PHOTOS and header.width * header.height > most_pixels:
            best, most_pixels = jpeg, header.width * header.height
    if not best:
        return None
    orientation = (chained[0].get(_ORIENTATION) or (1,))[0]
    return RawPreview(best, orientation if 1 <= orientation <= 8 else 1)


def count_pages(data: bytes) -> int:
    """The pages of a TIFF, without smaller versions of them (at most _MAX_DIRECTORIES)."""
    chained, _ = _directories(data)
    return sum(not (page.get(_SUBFILE) or (0,))[0] & _REDUCED for page in chained)


_Directory = dict[int, tuple[int, ...]]


def _directories(data: bytes) -> tuple[list[_Directory], list[_Directory]]:
    """The directories of the chain, and all of them with those below."""
    chained: list[_Directory] = []
    everything: list[_Directory] = []
    if data[:4] not in MAGIC or len(data) < 8:
        return chained, everything
    order = "<" if data[:2] == b"II" else ">"
    seen: set[int] = set()
    offset = struct.unpack_from(f"{order}I", data, 4)[0]
    while offset and offset not in seen and len(everything) < _MAX_DIRECTORIES:
        seen.add(offset)
        directory, offset = _directory(data, offset, order)
        chained.append(directory)
        everything.append(directory)
        below = [inside for inside in directory.get(_SUB_DIRECTORIES, ()) if inside not in seen]
        for inside in below[: _MAX_DIRECTORIES - len(everything)]:
            seen.add(inside)
            everything.append(_directory(data, inside, order)[0])
    return chained, everything


def _directory(data: bytes, offset: int, order: str) -> tuple[_Directory, int]:
    """The entries of a directory that are whole numbers, and the offset of the next (or 0)."""
    entries: _Directory = {}
    if offset + 2 > len(data):
        return entries, 0
    count = min(struct.unpack_from(f"{order}H", data, offset)[0], _MAX_ENTRIES)
    for start in range(offset + 2, offset + 2 + 12 * count, 12):
        if start + 12 > len(data):
            return entries, 0
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, start)
        if kind not in _SIZES or not 0 < number <= _MAX_VALUES:
            continue
        size = _SIZES[kind] * number
        value_offset = (
            start + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, start + 8)[0]
        )
        if value_offset + size <= len(data):
            entries[tag] = struct.unpack_from(
                f"{order}{number}{_FORMATS[kind]}", data, value_offset
            )
    end = offset + 2 + 12 * count
    following = struct.unpack_from(f"{order}I", data, end)[0] if end + 4 <= len(data) else 0
    return entries, following


def _is_raw(data: bytes, directories: list[_Directory]) -> bool:
    kinds = {(directory.get(_PHOTOMETRIC) or (0,))[0] for directory in directories}
    return data[8:10] == b"CR" or _DNG_VERSION in directories[0] or bool(kinds & set(_RAW))


def _jpeg_of(data: bytes, directory: _Directory) -> bytes:
    """The JPEG that a directory points at, as a file or as its only strip; b"" without one."""
    start, size = directory.get(_JPEG, ()), directory.get(_JPEG_SIZE, ())
    if not start and (directory.get(_COMPRESSION) or (0,))[0] in _JPEG_COMPRESSIONS:
        start, size = directory.get(_STRIPS, ()), directory.get(_STRIP_SIZES, ())
    if len(start) != 1 or len(size) != 1:
        return b""
    return data[start[0] : start[0] + size[0]]
