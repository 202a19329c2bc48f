"""Takes metadata about people and places out of an image without touching a pixel.

Cameras write position, time, serial numbers and names into EXIF, XMP and IPTC, and phones append
second images with their own. Only the orientation is kept, without which the image lies on its
side; it is read as the decoder reads it.

JPEG (ITU-T T.81, annex B; EXIF: CIPA DC-008, section 4) loses the segments with EXIF, XMP, IPTC and
comments, and appended images. PNG (W3C, Portable Network Graphics, section 11) and WebP (RFC 9649)
are rows of chunks, of which those with EXIF, XMP, texts and times go. TIFF, AVIF, JPEG 2000 and a
GIF with comments, which are rare, become PNG of the same pixels. Of camera raw its preview is kept,
and HEIC, which a PNG would make many times as large, becomes JPEG of quality 95.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from jaxtag.data.decode import decode, exif_orientation
from jaxtag.data.exif import ORIENTATION_TAG, jpeg_orientation
from jaxtag.data.jpeg import read_header
from jaxtag.data.tiff import RawPreview, raw_preview

_SOI, _EOI, _SOS, _COMMENT, _APP1, _APP2, _APP13 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE1, 0xE2, 0xED
# In compressed data 0xff is followed by 0 or a restart marker; anything else ends the scan. Its
# search would be quadratic in a run of 0xff if they were repeated in the pattern.
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_MARKER = re.compile(rb"\xff++([^\x00\xff\xd0-\xd7])", re.DOTALL)
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PERSONAL = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME")
# First bytes of TIFF and JPEG 2000, which may hold metadata anywhere.
_METADATA_ANYWHERE = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xffO\xffQ")
_HEIC = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
_GIF_PERSONAL = (b"!\xfe", b"XMP DataXMP")  # comments, and an application's block
_WEBP_PERSONAL = (b"EXIF", b"XMP ")
_HAS_EXIF, _HAS_XMP = 0x08, 0x04  # flags in the first byte of VP8X


class MetadataError(ValueError):
    """An image whose parts cannot be followed, so that nothing can be taken out safely."""


def strip(data: bytes) -> bytes:
    """Returns an image without personal metadata; `data` itself where there are none.

    Raises:
        MetadataError: The parts of the file cannot be followed.
        DecodeError: It has to be encoded anew, and is damaged.
    """
    if data[:2] == b"\xff\xd8":
        return strip_jpeg(data)
    if data.startswith(_PNG):
        return _strip_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _strip_webp(data)
    preview = raw_preview(data)
    if preview is not None:
        return _strip_preview(preview)
    if data[4:12] in _HEIC:
        return _as_image(data, "JPEG")
    gif = data.startswith(b"GIF8") and any(mark in data for mark in _GIF_PERSONAL)
    if gif or data.startswith(_METADATA_ANYWHERE) or data[4:8] == b"ftyp":
        return _as_image(data, "PNG")
    return data


def strip_jpeg(data: bytes) -> bytes:
    """Returns a JPEG without EXIF (but for its orientation), XMP, IPTC, comments, appended images.

    Harmless faults of its header are mended (`jpeg.read_header`). Returns `data` itself where it is
    no JPEG or has none of these.

    Raises:
        MetadataError: The segments are malformed.
    """
    if data[:2] != b"\xff\xd8":
        return data
    header = read_header(data)
    data = header.data
    segments = []
    has_metadata = False
    for marker, start, end in _jpeg_segments(data):
        payload = data[start + 4 : end]
        if _is_personal(marker, payload):
            has_metadata = True
        else:
            segments.append(data[start:end])
            if marker == _EOI:
                has_metadata |= end < len(data)
    if not has_metadata:
        return data
    orientation = jpeg_orientation(header)
    if orientation != 1:
        payload = b"Exif\0\0" + _orientation_block(orientation)
        segments.insert(1, b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload)
    return b"".join(segments)


def _is_personal(marker: int, payload: bytes) -> bool:
    """Whether a segment holds EXIF or XMP, IPTC, a comment or the index of further images."""
    multi_picture = marker == _APP2 and payload.startswith(b"MPF\0")
    return marker in (_APP1, _APP13, _COMMENT) or multi_picture


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment in turn, scans with their compressed data, to EOI."""
    offset = 0
    while True:
        match = _MARKER.match(data, offset)
        if match is None:
            raise MetadataError(f"no JPEG marker at byte {offset}")
        marker = match[1][0]
        start = match.end() - 2
        if marker in (_SOI, _EOI, 0x01):
            end = start + 2
        else:
            if start + 4 > len(data):
                raise MetadataError("the file ends inside a segment's header")
            (length,) = struct.unpack_from(">H", data, start + 2)
            end = start + 2 + length
            if length < 2 or end > len(data):
                raise MetadataError(f"the segment at byte {start} has a wrong length")
            if marker == _SOS:
                following = _SCAN_END.search(data, end)
                end = following.start() if following else len(data)
        yield marker, start, end
        # Without an end marker the decoder may still be content: yield what there is.
        if marker == _EOI or end == len(data):
            return
        offset = end


def _as_image(data: bytes, kind: str) -> bytes:
    """The pixels as the decoder sees them, and nothing else; as JPEG nearly so."""
    file = io.BytesIO()
    Image.fromarray(decode(data)).save(file, kind, quality=95, subsampling=0)
    return file.getvalue()


def _strip_preview(preview: RawPreview) -> bytes:
    """The preview of camera raw with the orientation of the raw file, where it has none."""
    data = strip_jpeg(preview.jpeg)
    if preview.orientation == 1 or jpeg_orientation(read_header(data)) != 1:
        return data
    payload = b"Exif\0\0" + _orientation_block(preview.orientation)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def _strip_png(data: bytes) -> bytes:
    chunks = [
        data[start:end] for kind, start, end in _png_chunks(data) if kind not in _PNG_PERSONAL
    ]
    stripped = _PNG + b"".join(chunks)
    if len(stripped) == len(data):  # nothing went, at the end neither
        return data
    orientation = exif_orientation(data)
    if orientation != 1:
        body = b"eXIf" + _orientation_block(orientation)
        exif = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        chunks.insert(1, exif)  # after the header
    return _PNG + b"".join(chunks)


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
    all_chunks = list(_webp_chunks(data))
    chunks = [chunk for chunk in all_chunks if chunk[0] not in _WEBP_PERSONAL]
    ends_here = 8 + int.from_bytes(data[4:8], "little") == len(data)
    if len(chunks) == len(all_chunks) and ends_here:
        return data
    orientation = exif_orientation(data)
    if orientation != 1:
        chunks.append((b"EXIF", _orientation_block(orientation), b""))
    body = b"WEBP"
    for kind, content, padding in chunks:
        if kind == b"VP8X" and content:
            flags = content[0] & ~(_HAS_EXIF | _HAS_XMP) | (_HAS_EXIF if orientation != 1 else 0)
            content = bytes([flags]) + content[1:]
        padding = padding or b"\0" * (len(content) % 2)
        body += kind + struct.pack("<I", len(content)) + content + padding
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(kind, content, padding) of each chunk, within the length that the file states.

    The byte of padding stays what it is: libwebp reads it where the content is damaged.
    """
    offset, stop = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while offset < stop:
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        content = data[offset + 8 : offset + 8 + size]
        if offset + 8 + size > stop:
            raise MetadataError(f"the WebP chunk at byte {offset} has a wrong length")
        end = offset + 8 + size
        yield data[offset : offset + 4], content, data[end : min(end + size % 2, stop)]
        offset = end + size % 2


def _orientation_block(orientation: int) -> bytes:
    """The smallest EXIF block (TIFF) that holds an orientation."""
    entry = struct.pack(">HHIHH", ORIENTATION_TAG, 3, 1, orientation, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
