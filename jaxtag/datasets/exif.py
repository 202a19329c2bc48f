"""Takes out of a JPEG what it tells about people and places, without touching a pixel.

Cameras write position, time, serial numbers and names into EXIF, XMP and IPTC, and phones append
second pictures with their own. Only the orientation is kept, without which the picture lies on its
side. Segments: ITU-T T.81 (JPEG), annex B; EXIF: CIPA DC-008, section 4.
"""

import re
import struct

_SOI, _EOI, _SOS, _COMMENT, _APP1, _APP2, _APP13 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE1, 0xE2, 0xED
# In compressed data 0xff is followed by 0 or a restart marker; anything else ends the scan.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
ORIENTATION = 0x0112


class MetadataError(ValueError):
    """A picture whose parts cannot be followed, so that nothing can be taken out safely."""


def strip_jpeg(data: bytes) -> bytes:
    """A JPEG without EXIF (but for its orientation), XMP, IPTC, comments and appended pictures.

    Returns `data` itself where it is no JPEG or has none of these.

    Raises:
        MetadataError: the segments are malformed.
    """
    if data[:2] != b"\xff\xd8":
        return data
    kept = []
    orientation = 1
    changed = False
    for marker, start, end in _segments(data):
        payload = data[start + 4 : end]
        if marker == _APP1 and payload.startswith(b"Exif\0"):
            orientation = _orientation(payload[6:]) if orientation == 1 else orientation
            changed = True
        elif _is_personal(marker, payload):
            changed = True
        else:
            kept.append(data[start:end])
            if marker == _EOI:
                changed |= end < len(data)
    if not changed:
        return data
    if orientation != 1:
        kept.insert(1, _exif_segment(orientation))
    return b"".join(kept)


def _is_personal(marker: int, payload: bytes) -> bool:
    multi_picture = marker == _APP2 and payload.startswith(b"MPF\0")
    return marker in (_APP1, _APP13, _COMMENT) or multi_picture


def _segments(data: bytes):
    """(marker, start, end) of each segment in turn, scans with their compressed data, to EOI."""
    position = 0
    while True:
        found = _MARKER.match(data, position)
        if found is None:
            raise MetadataError(f"no JPEG marker at byte {position}")
        marker = found[1][0]
        start = found.end() - 2
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
                following = _MARKER.search(data, end)
                end = following.start() if following else len(data)
        yield marker, start, end
        # Without an end marker the decoder may still be content: give what there is.
        if marker == _EOI or end == len(data):
            return
        position = end


def _orientation(tiff: bytes) -> int:
    """The orientation tag of an EXIF block (a small TIFF); 1 where it has none or is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        for number in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, first + 2 + 12 * number)
            if tag == ORIENTATION and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _exif_segment(orientation: int) -> bytes:
    """The smallest EXIF segment that holds an orientation."""
    payload = b"Exif\0\0" + orientation_block(orientation)
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload


def orientation_block(orientation: int) -> bytes:
    """The smallest EXIF block (TIFF) that holds an orientation."""
    entry = struct.pack(">HHIHH", ORIENTATION, 3, 1, orientation, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
