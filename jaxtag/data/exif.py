"""The orientation of an image: one parser for all formats, and for everything that turns images.

EXIF (CIPA DC-008, section 4.6) says how the camera was held; where it does not, XMP may. What
cannot be parsed turns nothing.
"""

import re
from typing import Literal

from jaxtag.data.jpeg import JpegHeader

ORIENTATION_TAG = 0x0112
_BYTE, _SHORT, _LONG = 1, 3, 4
_MAX_ENTRIES = 4096
_XMP = re.compile(rb"tiff:Orientation(?:=\"|='|>)\s*([1-8])\s*[\"'<]")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_XMP = b"XML:com.adobe.xmp\0"


def jpeg_orientation(header: JpegHeader) -> int:
    """The orientation of a JPEG, 1 to 8."""
    if not header.exif and not header.xmp:
        return 1
    return _orientation(header.exif, header.xmp)


def png_orientation(data: bytes) -> int:
    """The orientation of a PNG, in its eXIf chunk or its XMP text, 1 to 8."""
    exif = xmp = b""
    offset = len(_PNG)
    while offset + 12 <= len(data):
        kind = data[offset + 4 : offset + 8]
        start, end = offset + 8, offset + 8 + int.from_bytes(data[offset : offset + 4])
        if kind == b"IEND" or end > len(data):
            break
        if kind == b"eXIf":
            exif = exif or data[start:end]
        elif kind == b"iTXt" and data.startswith(_PNG_XMP + b"\0", start):
            xmp = xmp or data[start:end]
        offset = end + 4
    return _orientation(exif, xmp)


def webp_orientation(data: bytes) -> int:
    """The orientation of a WebP, in its EXIF or XMP chunk, 1 to 8."""
    exif = xmp = b""
    offset, stop = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while offset + 8 <= stop:
        kind = data[offset : offset + 4]
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        content = data[offset + 8 : offset + 8 + size]
        if kind == b"EXIF":
            exif = exif or content
        elif kind == b"XMP ":
            xmp = xmp or content
        offset += 8 + size + size % 2
    return _orientation(exif, xmp)


def _orientation(exif: bytes, xmp: bytes) -> int:
    value = exif_orientation(exif)
    if value is None:
        match = _XMP.search(xmp)
        value = int(match[1]) if match else 1
    return value if 1 <= value <= 8 else 1


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in an EXIF block (TIFF); None where it has none or cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return None
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    first = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[first : first + 2], order)
    for number in range(min(count, _MAX_ENTRIES)):
        entry = exif[first + 2 + 12 * number : first + 14 + 12 * number]
        if len(entry) < 12:
            return None
        tag, kind = int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)
        if tag == ORIENTATION_TAG:
            size = {_BYTE: 1, _SHORT: 2, _LONG: 4}.get(kind)
            return int.from_bytes(entry[8 : 8 + size], order) if size else None
    return None
