"""The XMP packet inside of an image file: JPEG, PNG and WebP.

Only the packet is exchanged; every other byte is copied. XMP specification part 3; PNG (ISO 15948),
section 11.3.4.5; the WebP container specification, "Extended File Format".
"""

import struct
import zlib
from collections.abc import Iterator

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/"
_JPEG_MAX_PACKET = 65_535 - 2 - len(_JPEG_XMP)
_APP0, _APP1, _APP2, _SOS = 0xE0, 0xE1, 0xE2, 0xDA
_PNG_XMP = b"XML:com.adobe.xmp\0"
_WEBP_XMP_FLAG, _WEBP_ALPHA_FLAG = 0x04, 0x10


class ContainerError(ValueError):
    """The packet of a file cannot be read or exchanged; the message says why."""


class UnsupportedFormatError(ContainerError):
    """Files of this format do not take keywords here."""


def read_packet(data: bytes) -> bytes:
    """The XMP packet of an image; b"" without one. Raises ContainerError."""
    return _split(data)[1]


def replace_packet(data: bytes, packet: bytes) -> bytes:
    """The file with this XMP packet in the place of its own. Raises ContainerError."""
    before, _, after = _split(data)
    if data.startswith(_JPEG):
        if len(packet) > _JPEG_MAX_PACKET:
            raise ContainerError(
                f"its XMP would have {len(packet):,} bytes, more than a JPEG takes"
            )
        length = 2 + len(_JPEG_XMP) + len(packet)
        return before + b"\xff\xe1" + struct.pack(">H", length) + _JPEG_XMP + packet + after
    if data.startswith(_PNG):
        return before + _png_chunk(b"iTXt", _PNG_XMP + b"\0\0\0\0" + packet) + after
    return _webp_file(before[12:] + _webp_chunk(b"XMP ", packet) + after)


def other_content(data: bytes) -> bytes:
    """All of a file but its XMP packet and its own size, for comparison. Raises ContainerError."""
    before, _, after = _split(data)
    return before[12 * before.startswith(b"RIFF") :] + after


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """What stands before the packet, the packet, and what stands behind it."""
    if data.startswith(_JPEG):
        return _split_jpeg(data)
    if data.startswith(_PNG):
        return _split_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _split_webp(data)
    raise UnsupportedFormatError("keywords go into JPEG, PNG and WebP files only: take --sidecars")


def _split_jpeg(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A new segment goes behind the first ones, JFIF's and EXIF's."""
    insert_at, offsets_from = 2, len(data)
    for marker, start, end in _jpeg_segments(data):
        content = start + 4
        if data.startswith(_JPEG_EXTENDED_XMP, content):
            raise ContainerError("its XMP is in several parts: take --sidecars")
        if marker == _APP2 and data.startswith(b"MPF\0", content):
            offsets_from = start  # other images of the file are found from here
        if marker == _APP1 and data.startswith(_JPEG_XMP, content):
            if start > offsets_from:
                raise ContainerError("it holds several images, and its XMP is between them")
            packet = data[content + len(_JPEG_XMP) : end]
            return data[:start], packet, data[end:]
        if start == insert_at and (marker == _APP0 or data.startswith(b"Exif\0", content)):
            insert_at = end
    return data[:insert_at], b"", data[insert_at:]


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment before the first scan."""
    offset = 2
    while True:
        if data[offset : offset + 1] != b"\xff" or offset + 4 > len(data):
            raise ContainerError("its segments cannot be followed")
        marker = data[offset + 1]
        if marker == _SOS:
            return
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4])
        yield marker, offset, end
        offset = end


def _split_png(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A new chunk goes behind the header."""
    offset, insert_at = len(_PNG), 0
    while offset + 12 <= len(data):
        kind = data[offset + 4 : offset + 8]
        end = offset + 12 + int.from_bytes(data[offset : offset + 4])
        insert_at = insert_at or end
        content = data[offset + 8 : end - 4]
        if kind == b"iTXt" and content.startswith(_PNG_XMP):
            return data[:offset], _png_text(content), data[end:]
        if kind == b"IEND":
            return data[:insert_at], b"", data[insert_at:]
        offset = end
    raise ContainerError("its chunks cannot be followed")


def _png_text(content: bytes) -> bytes:
    is_compressed = content[len(_PNG_XMP)]
    if is_compressed:
        raise ContainerError("its XMP is compressed: take --sidecars")
    _, _, text = content[len(_PNG_XMP) + 2 :].split(b"\0", 2)
    return text


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def _split_webp(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A new chunk goes to the end; a file in the simple format becomes an extended one."""
    chunks: list[bytes] = []
    packet, insert_at = b"", None
    offset, stop = 12, 8 + int.from_bytes(data[4:8], "little")
    if stop + stop % 2 < len(data) or stop > len(data):
        raise ContainerError("its chunks cannot be followed")
    while offset + 8 <= stop:
        kind = data[offset : offset + 4]
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        end = offset + 8 + size + size % 2
        if kind == b"XMP " and insert_at is None:
            packet, insert_at = data[offset + 8 : offset + 8 + size], len(chunks)
        else:
            chunks.append(data[offset:end])
        offset = end
    if not chunks:
        raise ContainerError("its chunks cannot be followed")
    if chunks[0].startswith(b"VP8X"):
        flags = chunks[0][8] | _WEBP_XMP_FLAG
        chunks[0] = chunks[0][:8] + bytes([flags]) + chunks[0][9:]
    else:
        chunks.insert(0, _webp_extended_header(chunks[0]))
    insert_at = len(chunks) if insert_at is None else insert_at
    return data[:12] + b"".join(chunks[:insert_at]), packet, b"".join(chunks[insert_at:])


def _webp_extended_header(image: bytes) -> bytes:
    """The header of the extended format for a file that has only an image."""
    if image.startswith(b"VP8L"):
        bits = int.from_bytes(image[9:13], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags = _WEBP_XMP_FLAG | (_WEBP_ALPHA_FLAG if bits >> 28 & 1 else 0)
    else:
        width, height = (int.from_bytes(image[o : o + 2], "little") & 0x3FFF for o in (14, 16))
        flags = _WEBP_XMP_FLAG
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return _webp_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size)


def _webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _webp_file(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
