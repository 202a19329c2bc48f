"""Camera raw by its preview, pages of a TIFF, HEIC, and photos of 108 and 200 megapixels."""

import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from jaxtag.data.decode import decode, open_image
from jaxtag.data.image_reader import DecodeError
from jaxtag.data.tiff import raw_preview
from jaxtag.datasets.strip_metadata import strip


def picture(width, height, kind="JPEG", **options):
    gradient = np.linspace(0, 255, width, dtype=np.uint8)
    image = np.stack([np.tile(gradient, (height, 1))] * 3, -1)
    image[: height // 2, :, 0] = 200
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def raw(order, directories, blobs, magic=b""):
    """A TIFF of directories ({tag: (kind, values)}); "blobN" stands for where a blob lies."""
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 16) + magic
    data = data.ljust(16, b"\0")
    size = sum(2 + 12 * len(entries) + 4 for entries, _ in directories)
    offsets, place = {}, 16 + size
    for name, blob in blobs.items():
        offsets[name] = place
        place += len(blob)
    starts, place = [], 16
    for entries, _ in directories:
        starts.append(place)
        place += 2 + 12 * len(entries) + 4
    for entries, following in directories:
        data += struct.pack(f"{order}H", len(entries))
        for tag, (kind, value) in sorted(entries.items()):
            value = offsets.get(value, value)
            value = starts[int(value[3:])] if isinstance(value, str) else value
            packed = struct.pack(f"{order}{'H' if kind == 3 else 'I'}", value).ljust(4, b"\0")
            data += struct.pack(f"{order}HHI", tag, kind, 1) + packed
        data += struct.pack(f"{order}I", starts[following] if following else 0)
    return data + b"".join(blobs.values())


SMALL, LARGE = picture(16, 8), picture(96, 64)


def jpeg(name, blob):
    return {513: (4, name), 514: (4, len(blob))}


def strip_of(name, blob, compression):
    return {259: (3, compression), 273: (4, name), 279: (4, len(blob))}


RAWS = {
    "NEF": ("<", [  # TIFF/EP: raw and previews in directories below
        ({330: (4, "dir1"), 274: (3, 6), **strip_of("small", SMALL, 1)}, 0),
        ({262: (3, 32803), 259: (3, 34713), **jpeg("large", LARGE)}, 0),
    ], b""),
    "ARW": ("<", [
        ({330: (4, "dir1"), 274: (3, 6), **jpeg("large", LARGE)}, 2),
        ({262: (3, 32803), **strip_of("small", SMALL, 32767)}, 0),
        (jpeg("small", SMALL), 0),
    ], b""),
    "CR2": ("<", [
        ({274: (3, 6), **strip_of("large", LARGE, 6)}, 1),
        (jpeg("small", SMALL), 0),
    ], b"CR\2\0"),
    "DNG": (">", [
        ({50706: (4, 0x01040000), 330: (4, "dir1"), 274: (3, 6)}, 0),
        ({254: (4, 1), **strip_of("large", LARGE, 7)}, 0),
    ], b""),
}  # fmt: skip


@pytest.mark.parametrize("kind", RAWS)
def test_raw_is_read_by_its_largest_preview(kind):
    order, directories, magic = RAWS[kind]
    lossless = b"\xff\xd8\xff\xc3" + LARGE[4:] * 3  # raw data of CR2: a JPEG of another kind
    data = raw(order, directories, {"small": SMALL, "large": LARGE, "raw": lossless}, magic)
    preview = raw_preview(data)
    assert preview is not None
    assert (preview.jpeg, preview.orientation) == (LARGE, 6)
    reader = open_image(data)
    assert (reader.width, reader.height) == (64, 96)
    assert "preview (96x64)" in reader.notes[0]
    expected = np.rot90(decode(LARGE), -1)
    np.testing.assert_array_equal(decode(data), expected)
    stored = strip(data)
    assert len(stored) < len(LARGE) + 50
    np.testing.assert_array_equal(decode(stored), expected)


def test_raw_data_are_no_preview():
    lossless = LARGE[:2] + LARGE[2:].replace(b"\xff\xc0", b"\xff\xc3")
    directories = [({274: (3, 1), **strip_of("raw", lossless, 6)}, 0)]
    assert raw_preview(raw("<", directories, {"raw": lossless}, b"CR\2\0")) is None


@pytest.mark.parametrize("cut", [0, 8, 9, 20, 60, 90])
def test_damaged_raw_ends_in_an_error_or_a_smaller_preview(cut):
    order, directories, _ = RAWS["NEF"]
    data = raw(order, directories, {"small": SMALL, "large": LARGE})[:cut]
    raw_preview(data)
    with pytest.raises(DecodeError):
        decode(data)


def test_directories_that_lead_in_circles():
    directories = [({50706: (4, 1), 330: (4, "dir1")}, 1), ({330: (4, "dir0")}, 1)]
    assert raw_preview(raw("<", directories, {"x": b"x" * 64})) is None


def test_an_ordinary_tiff_is_no_raw():
    data = picture(20, 10, "TIFF", compression="jpeg")
    assert raw_preview(data) is None
    assert decode(data).shape == (10, 20, 3)


def test_of_several_pages_the_first_is_read_and_the_others_are_told():
    pages = [Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue")]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    reader = open_image(buffer.getvalue())
    assert reader.notes == ("2 further pages, which are left out",)
    assert (reader.pixels() == (255, 0, 0)).all()
    assert open_image(picture(8, 6, "TIFF")).notes == ()


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic(orientation):
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[274] = orientation
    data = picture(64, 32, "HEIF", quality=95, exif=exif.tobytes())
    upright = decode(data)
    assert upright.shape == ((32, 64, 3) if orientation == 1 else (64, 32, 3))
    expected = np.asarray(Image.open(io.BytesIO(picture(64, 32, "PNG"))))
    expected = expected if orientation == 1 else np.rot90(expected, -1)
    assert np.abs(upright.astype(int) - expected).mean() < 6
    stored = strip(data)
    assert stored[:2] == b"\xff\xd8"
    assert np.abs(decode(stored).astype(int) - upright).mean() < 2


def test_avif_needs_nothing_further():
    assert decode(picture(64, 32, "AVIF")).shape == (32, 64, 3)


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (16_320, 12_240)])
def test_photos_of_108_and_200_megapixels_are_decoded_at_a_reduced_size(width, height):
    tile = np.full((height, width), 90, np.uint8)
    data = simplejpeg.encode_jpeg(tile[..., None], quality=50, colorspace="GRAY")
    del tile
    reader = open_image(data)
    assert (reader.width, reader.height) == (width, height)
    image = decode(data, min_size=256)
    assert image.shape == (-(-height // 8), -(-width // 8), 3)
    assert abs(int(image[5, 5, 0]) - 90) < 3
