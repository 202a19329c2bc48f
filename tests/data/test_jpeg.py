"""JPEGs as cameras write them are read; cut ones, endless ones and leaks are not."""

import io
import re
import time

import numpy as np
import pytest
from PIL import Image

from jaxtag.data import decode as decode_module
from jaxtag.data.decode import DecodeError, decode, decode_into, open_image
from jaxtag.data.exif import exif_orientation
from jaxtag.data.jpeg import count_scans, read_header
from jaxtag.datasets.strip_metadata import MetadataError, strip

ROWS, COLUMNS = np.mgrid[0:64, 0:96]
SCENE = np.stack([COLUMNS * 2, ROWS * 3, ROWS + COLUMNS], -1).astype(np.uint8)


def jpeg(mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(SCENE).convert(mode).save(buffer, "JPEG", **{"quality": 90} | options)
    return buffer.getvalue()


def segment(marker, payload):
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2) + payload


def odd(kind, data):
    """A sound JPEG with an oddity that leaves every pixel whole."""
    header = read_header(data)
    if kind == "Se of Samsung":
        last = header.scan + 2 + int.from_bytes(data[header.scan + 2 : header.scan + 4])
        return data[: last - 2] + b"\0" + data[last - 1 :]
    if kind == "bytes between segments":
        return data[:20] + bytes(8) + data[20 : header.scan] + b"ab" + data[header.scan :]
    if kind == "fill bytes":
        return data[:20] + b"\xff" * 5 + data[20:]
    if kind == "JFIF 2":
        position = data.find(b"JFIF\0") + 5
        return data[:position] + b"\2" + data[position + 1 :]
    if kind == "Adobe transform":
        return data[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\7") + data[20:]
    return data[:-2]


@pytest.mark.parametrize(
    "kind",
    ["Se of Samsung", "bytes between segments", "JFIF 2", "Adobe transform", "no end marker"],
)
@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_harmless_oddities_are_read_and_noted(kind, options):
    sound = jpeg(**options)
    data = odd(kind, sound)
    assert data != sound
    assert len(open_image(data).notes) == 1
    for read in (data, strip(data)):
        np.testing.assert_array_equal(decode(read), decode(sound))
        np.testing.assert_array_equal(decode(read, min_size=20), decode(sound, min_size=20))
    out = np.empty_like(SCENE)
    assert decode_into(data, out)
    np.testing.assert_array_equal(out, decode(sound))


def test_what_is_not_odd_is_not_touched():
    for data in (jpeg(), jpeg(progressive=True), odd("fill bytes", jpeg()), jpeg("CMYK")):
        header = read_header(data)
        assert header.data is data
        assert not header.notes
        assert decode(data).shape == SCENE.shape


def test_a_missing_end_does_not_hide_missing_rows():
    for share in (0.5, 0.8, 0.97):
        data = jpeg()
        with pytest.raises(DecodeError, match="damaged"):
            decode(data[: int(share * len(data))])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {"restart_marker_rows": 1},
        {"restart_marker_blocks": 3},
        {"restart_marker_rows": 1, "subsampling": 0},
        {"restart_marker_blocks": 3, "progressive": True},
    ],
)
def test_a_jpeg_cut_at_a_restart_marker_is_damaged(mode, options):
    data = jpeg(mode, **options)
    pixels = decode(data)
    np.testing.assert_array_equal(decode(data[:-2] + bytes(3) + data[-2:]), pixels)
    assert open_image(data).pixels(bottom=16).shape == pixels.shape  # it is decoded as a whole
    scan = read_header(data).scan
    for match in list(re.finditer(rb"\xff[\xd0-\xd7]", data[scan:]))[::4]:
        for tail in (b"\xff\xd9", b"\0\xff\xd9", b"xyz" * 5 + b"\xff\xd9", b""):
            with pytest.raises(DecodeError):
                decode(data[: scan + match.start()] + tail)


def test_a_jpeg_in_a_tiff_that_is_cut_is_damaged():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "TIFF", compression="jpeg")
    data = buffer.getvalue()
    assert decode(data).shape == (64, 64, 3)
    scan = data.find(b"\xff\xda")
    middle = scan + (data.find(b"\xff\xd9", scan) - scan) // 2
    with pytest.raises(DecodeError, match="damaged JPEG in a TIFF"):
        decode(data[:middle] + b"\xff\xd9" + data[middle + 2 :])


def many_scans(count):
    """A progressive JPEG with the last of its scans repeated."""
    data = jpeg(progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def test_scans_without_end_are_refused(monkeypatch):
    data = many_scans(40)
    assert count_scans(read_header(data), 1000) == 50
    assert count_scans(read_header(data), 30) == 31
    monkeypatch.setattr(decode_module, "_MAX_SCANNED", 30 * SCENE[..., 0].size)
    with pytest.raises(DecodeError, match="in more than 30 scans"):
        decode(data)
    decode(jpeg(progressive=True))


def test_coefficients_of_a_progressive_jpeg_are_limited(monkeypatch):
    monkeypatch.setattr(decode_module, "_MAX_COEFFICIENT_BYTES", 6 * SCENE[..., 0].size - 1)
    decode(jpeg())
    with pytest.raises(DecodeError, match="too large for a progressive JPEG"):
        decode(jpeg(progressive=True))


def test_very_large_jpegs_are_decoded_at_a_reduced_size():
    data = jpeg()
    image = open_image(data, max_pixels=2000)
    assert (image.height, image.width) == (64, 96)
    assert image.factor(1.0) == 0.5
    assert decode(data, max_pixels=2000).shape == (32, 48, 3)
    assert decode(data, max_pixels=2000, min_size=8).shape == (8, 12, 3)
    with pytest.raises(DecodeError, match="pixels allowed"):
        decode(data, max_pixels=SCENE[..., 0].size // 6)


def test_a_run_of_0xff_takes_no_time():
    data = jpeg()[:-100] + b"\xff" * 300_000
    start = time.process_time()
    for function in (decode, strip, read_header):
        try:
            function(data)
        except (DecodeError, MetadataError):
            continue
    assert time.process_time() - start < 1


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_memory_is_lost(count):
    damaged = jpeg()[:500]
    out = np.empty((16, 16, 3), np.uint8)

    def run():
        decode_into(data, out)
        decode_into(damaged, out)
        for image in (data, damaged, many):
            try:
                open_image(image).pixels(0.5)
            except DecodeError:
                continue

    data, many = jpeg(), odd("bytes between segments", jpeg())
    for _ in range(100):
        run()
    before = resident_bytes()
    for _ in range(count):
        run()
    assert (resident_bytes() - before) / count < 1500


def tiff_block(kind, value, tag=0x112, order="big"):
    start = b"MM\0*" if order == "big" else b"II*\0"
    size = {1: 1, 3: 2, 4: 4}.get(kind, 4)
    entry = tag.to_bytes(2, order) + kind.to_bytes(2, order) + (1).to_bytes(4, order)
    return (
        start
        + (8).to_bytes(4, order)
        + (1).to_bytes(2, order)
        + entry
        + value.to_bytes(size, order).ljust(4, b"\0")
        + bytes(4)
    )


XMP = (
    b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
)


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_an_orientation_of_any_integer_kind_is_read(kind, order):
    assert exif_orientation(tiff_block(kind, 6, order=order)) == 6
    assert exif_orientation(tiff_block(kind, 6, tag=0x128, order=order)) is None
    for length in range(22):
        assert exif_orientation(tiff_block(kind, 6, order=order)[:length]) in (None, 6, 0)


@pytest.mark.parametrize(
    ("segments", "is_turned"),
    [
        ([b"Exif\0\0" + tiff_block(3, 6)], True),
        ([b"Exif\0\0" + tiff_block(4, 6)], True),
        ([b"Exif\0\0" + tiff_block(3, 2, tag=0x128), XMP], True),
        ([XMP], True),
        ([b"Exif\0\0" + tiff_block(3, 1), XMP], False),
        ([b"Exif\0\0" + tiff_block(3, 9)], False),
        ([b"Exif\0\0" + b"\xff" * 20], False),
        ([b"Exif\0\0"], False),
    ],
)
def test_an_image_stands_alike_before_and_after_its_metadata_go(segments, is_turned):
    data = jpeg()
    data = data[:2] + b"".join(segment(0xE1, s) for s in segments) + data[2:]
    shape = (96, 64, 3) if is_turned else (64, 96, 3)
    assert decode(data).shape == shape
    np.testing.assert_array_equal(decode(strip(data)), decode(data))
    assert decode_into(data, np.empty_like(SCENE)) is not is_turned
    assert b"xmpmeta" not in strip(data)


def test_many_gaps_between_segments_take_no_time():
    sound = jpeg()
    data = sound[:2] + b"\0\xff\xfe\0\2" * 100_000 + sound[2:]
    start = time.process_time()
    np.testing.assert_array_equal(decode(data), decode(sound))
    assert open_image(data).notes == ("100000 bytes between its segments",)
    assert time.process_time() - start < 5
