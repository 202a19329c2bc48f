"""The structure of a JPEG (ITU-T T.81, annex B): its header, mended where cameras wrote it oddly.

libjpeg-turbo reports the first warning of a file only, and not what followed. So what is harmless
is put right before it is decoded, and what it then warns of is damage.
"""

import math
import re
from dataclasses import dataclass

# Markers of the segment that holds an image's size and kind (SOF0 to SOF15).
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SEQUENTIAL = (0xC0, 0xC1)  # baseline and extended sequential, Huffman-coded
_APP0, _APP1, _APP14, _DRI, _SOS, _EOI = 0xE0, 0xE1, 0xEE, 0xDD, 0xDA, 0xD9
_TABLES = (0xDB, 0xC4)  # quantization and Huffman tables
_STANDALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers without a length
END = b"\xff\xd9"
# In compressed data 0xff is followed by 0 or a restart marker; anything else ends the scan. There
# is no repetition in the pattern: its search would be quadratic in a run of 0xff.
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(slots=True)
class JpegHeader:
    """What the segments before the first scan say, and the file with harmless faults mended.

    Attributes:
        data: The file; the object that was given where there was nothing to mend.
        notes: What was mended, for the user.
        frame: Offset of the frame's segment; 0 where there is none.
        scan: Offset of the first scan's segment; 0 where there is none.
        kind: Marker of the frame (0xC0 is baseline, 0xC2 progressive).
        height: In pixels, as stored.
        width: In pixels, as stored.
        num_components: 1 is gray, 3 color, 4 inks.
        restart_interval: Blocks (MCUs) between two restart markers; 0 without.
        lacks_end: Whether there was no end marker.
        exif: The EXIF block (TIFF) or b"".
        xmp: The XMP packet or b"".
    """

    data: bytes
    notes: list[str]
    frame: int = 0
    scan: int = 0
    kind: int = 0
    height: int = 0
    width: int = 0
    num_components: int = 0
    restart_interval: int = 0
    lacks_end: bool = False
    exif: bytes = b""
    xmp: bytes = b""

    @property
    def is_sequential(self) -> bool:
        """Whether it is baseline or extended sequential, not progressive."""
        return self.kind in _SEQUENTIAL

    @property
    def has_single_scan(self) -> bool:
        """Whether rows are stored one below the other, all components together."""
        is_interleaved = self.scan and self.data[self.scan + 4] == self.num_components
        return bool(self.is_sequential and is_interleaved)


def read_header(data: bytes) -> JpegHeader:
    """Reads the segments up to the first scan; what cannot be followed ends them."""
    header = JpegHeader(data, [])
    patches: list[tuple[int, int]] = []  # (offset, byte)
    gaps: list[tuple[int, int]] = []
    adobe = 0
    offset, size = 2, len(data)
    while offset + 4 <= size:
        if data[offset] == 0xFF and data[offset + 1] in _TABLES:  # most segments, so first
            length = data[offset + 2] << 8 | data[offset + 3]
            if length < 2:
                break
            offset += 2 + length
            continue
        start = offset
        if data[offset] != 0xFF or data[offset + 1] == 0:
            start = _next_marker(data, offset)
            if start < 0:
                break
            gaps.append((offset, start))
        marker = data[start + 1]
        if marker == 0xFF:  # a fill byte
            offset = start + 1
            continue
        if marker in _STANDALONE:
            if marker == _EOI:
                break
            offset = start + 2
            continue
        if start + 4 > size:
            break
        length = data[start + 2] << 8 | data[start + 3]
        end = start + 2 + length
        if length < 2 or end > size:
            break
        if marker in _FRAMES and length >= 8 and not header.frame:
            header.frame, header.kind = start, marker
            header.height = data[start + 5] << 8 | data[start + 6]
            header.width = data[start + 7] << 8 | data[start + 8]
            header.num_components = data[start + 9]
        elif marker == _APP0 and length >= 16 and data.startswith(b"JFIF\0", start + 4):
            if data[start + 9] != 1:
                patches.append((start + 9, 1))
                header.notes.append(f"an unknown revision of JFIF, {data[start + 9]}")
        elif marker == _APP1 and data.startswith(_EXIF, start + 4):
            header.exif = header.exif or data[start + 10 : end]
        elif marker == _APP1 and data.startswith(_XMP, start + 4):
            header.xmp = header.xmp or data[start + 4 + len(_XMP) : end]
        elif marker == _APP14 and length >= 14 and data.startswith(b"Adobe", start + 4):
            adobe = start + 15
        elif marker == _DRI and length == 4:
            header.restart_interval = data[start + 4] << 8 | data[start + 5]
        elif marker == _SOS:
            header.scan = start
            break
        offset = end
    if adobe and data[adobe] > 2:
        patches.append((adobe, 2 if header.num_components == 4 else 1))
        header.notes.append(f"an unknown color transform of Adobe, {data[adobe]}")
    _mend(header, patches, gaps)
    return header


def _mend(header: JpegHeader, patches: list[tuple[int, int]], gaps: list[tuple[int, int]]) -> None:
    """Puts right what is harmless; offsets of frame and scan move with it."""
    data, scan = header.data, header.scan
    if not scan or not header.frame:
        return
    if header.is_sequential:
        last = scan + 2 + (data[scan + 2] << 8 | data[scan + 3])
        if data[last - 3 : last] != b"\0\x3f\0" and last - 3 > scan + 4:
            patches += [(last - 3, 0), (last - 2, 63), (last - 1, 0)]
            header.notes.append("a scan of wrong bounds, as phones of Samsung write")
        if data.rfind(END, scan) < 0:
            data += END
            header.lacks_end = True
            header.notes.append("no end marker")
    if gaps:
        count = sum(end - start for start, end in gaps)
        header.notes.append(f"{count} bytes between its segments")
    if patches:
        mended = bytearray(data)
        for offset, value in patches:
            mended[offset] = value
        data = bytes(mended)
    if gaps:
        starts = [0, *(end for _, end in gaps)]
        stops = [*(start for start, _ in gaps), len(data)]
        data = b"".join(data[start:stop] for start, stop in zip(starts, stops, strict=True))
        header.frame -= sum(end - start for start, end in gaps if end <= header.frame)
        header.scan -= sum(end - start for start, end in gaps if end <= header.scan)
    header.data = data


def _next_marker(data: bytes, offset: int) -> int:
    """The offset of the next marker, as libjpeg looks for it; -1 without any."""
    match = _SCAN_END.search(data, offset)
    return match.start() if match else -1


def count_scans(header: JpegHeader, limit: int) -> int:
    """The number of scans, counted up to `limit` + 1."""
    count, offset = 0, header.scan
    for marker, _ in _markers(header.data, offset):
        count += marker == _SOS
        if count > limit:
            break
    return count


def is_complete(header: JpegHeader) -> bool:
    """Whether each component has its data, and each restart interval was begun.

    libjpeg fills what is missing with gray; its first warning may be of something harmless.
    """
    components: set[int] = set()
    scans = []
    for marker, start in _markers(header.data, header.scan):
        if marker == _SOS:
            count = header.data[start + 4]
            components.update(header.data[start + 5 : start + 5 + 2 * count : 2])
            scans.append(start)
    if len(components) < header.num_components:
        return False
    if not header.restart_interval:
        return True
    if not header.has_single_scan:
        return False
    start = scans[0] + 2 + (header.data[scans[0] + 2] << 8 | header.data[scans[0] + 3])
    end = _next_marker(header.data, start)
    restarts = len(_RESTART.findall(header.data, start, len(header.data) if end < 0 else end))
    return restarts == math.ceil(_num_blocks(header) / header.restart_interval) - 1


def _num_blocks(header: JpegHeader) -> int:
    """The number of MCUs of an interleaved scan."""
    if header.num_components == 1:
        return math.ceil(header.height / 8) * math.ceil(header.width / 8)
    first = header.frame + 11  # of each component: id, sampling factors, table
    factors = [header.data[first + 3 * number] for number in range(header.num_components)]
    height, width = 8 * max(f & 15 for f in factors), 8 * max(f >> 4 for f in factors)
    return math.ceil(header.height / max(height, 1)) * math.ceil(header.width / max(width, 1))


def _markers(data: bytes, offset: int) -> list[tuple[int, int]]:
    """(marker, offset) of each segment from a scan on, without the compressed data."""
    markers = []
    while 0 <= offset < len(data) - 1:
        marker = data[offset + 1]
        markers.append((marker, offset))
        if marker == _EOI or len(markers) > 1 << 16:
            break
        if marker not in _STANDALONE:
            offset += 2 + int.from_bytes(data[offset + 2 : offset + 4])
        else:
            offset += 2
        offset = _next_marker(data, offset)
    return markers


_EXTRANEOUS_AT_END = re.compile(r"^Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9$")


def is_harmless(error: ValueError, header: JpegHeader, *, is_cut: bool = False) -> bool:
    """Whether libjpeg-turbo's error is of bytes before the end marker, with all rows there.

    Args:
        error: of decoding.
        header: of the whole file.
        is_cut: rows below those that were decoded are left out on purpose.
    """
    return bool(_EXTRANEOUS_AT_END.match(str(error))) and (is_cut or is_complete(header))
