"""Takes out of a picture what it tells about people and places, without touching a pixel.

JPEG: see `exif`. PNG (W3C, Portable Network Graphics, section 11) and WebP (RFC 9649) are rows of
chunks, of which those with EXIF, XMP, texts and times go; an orientation that matters is kept.
TIFF, AVIF, JPEG 2000 and a GIF with comments, which are rare, become PNG of the same pixels.
"""

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from jaxtag.data.decode import decode
from jaxtag.datasets.exif import ORIENTATION, MetadataError, orientation_block, strip_jpeg

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PERSONAL = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME")
_ANYWHERE = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xffO\xffQ")
_GIF_PERSONAL = (b"!\xfe", b"XMP DataXMP")  # comments, and an application's block
_WEBP_PERSONAL = (b"EXIF", b"XMP ")
_HAS_EXIF, _HAS_XMP = 0x08, 0x04  # flags in the first byte of VP8X


def strip(data: bytes) -> bytes:
    """A picture without personal metadata; `data` itself where there are none.

    Raises:
        MetadataError: the parts of the file cannot be followed.
        DecodeError: it has to be written anew, and is damaged.
    """
    if data[:2] == b"\xff\xd8":
        return strip_jpeg(data)
    if data.startswith(_PNG):
        return _strip_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _strip_webp(data)
    gif = data.startswith(b"GIF8") and any(mark in data for mark in _GIF_PERSONAL)
    if gif or data.startswith(_ANYWHERE) or data[4:8] == b"ftyp":
        return _as_png(data)
    return data


def _as_png(data: bytes) -> bytes:
    """The pixels as the decoder sees them, and nothing else."""
    file = io.BytesIO()
    Image.fromarray(decode(data)).save(file, "PNG")
    return file.getvalue()


def _strip_png(data: bytes) -> bytes:
    chunks = list(_png_chunks(data))
    kept = [data[start:end] for kind, start, end in chunks if kind not in _PNG_PERSONAL]
    stripped = _PNG + b"".join(kept)
    if len(stripped) == len(data):  # nothing went, at the end neither
        return data
    orientation = _orientation(data)
    if orientation != 1:
        body = b"eXIf" + orientation_block(orientation)
        exif = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        kept.insert(1, exif)  # after the header
    return _PNG + b"".join(kept)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk up to IEND: length, kind, content and CRC."""
    end = len(_PNG)
    kind = b""
    while kind != b"IEND" and end < len(data):  # without IEND a decoder may still be content
        start = end
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            raise MetadataError(f"the PNG chunk at byte {start} has a wrong length")
        yield kind, start, end


def _strip_webp(data: bytes) -> bytes:
    chunks = list(_webp_chunks(data))
    kept = [(kind, content) for kind, content in chunks if kind not in _WEBP_PERSONAL]
    whole = 8 + int.from_bytes(data[4:8], "little") == len(data)
    if len(kept) == len(chunks) and whole:
        return data
    orientation = _orientation(data)
    if orientation != 1:
        kept.append((b"EXIF", orientation_block(orientation)))
    body = b"WEBP"
    for kind, content in kept:
        if kind == b"VP8X" and content:
            flags = content[0] & ~(_HAS_EXIF | _HAS_XMP) | (_HAS_EXIF if orientation != 1 else 0)
            content = bytes([flags]) + content[1:]
        body += kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of each chunk, within the length that the file states."""
    place, stop = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while place < stop:
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        content = data[place + 8 : place + 8 + size]
        if place + 8 + size > stop:
            raise MetadataError(f"the WebP chunk at byte {place} has a wrong length")
        yield data[place : place + 4], content
        place += 8 + size + size % 2


def _orientation(data: bytes) -> int:
    """As the decoder will see it, in whichever part of the file it stands."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
            orientation = image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # damaged EXIF: Pillow raises many kinds
        raise MetadataError(f"its EXIF cannot be read: {error}") from error
    return orientation if orientation in range(1, 9) else 1
