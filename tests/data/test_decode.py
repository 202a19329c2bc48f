"""Every kind of picture that people have decodes rightly, and every kind of damage is refused."""

import io
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, PngImagePlugin

from jaxtag.data import decode as decode_module
from jaxtag.data.decode import DecodeError, decode, decode_into, open_image
from jaxtag.data.pillow_reader import PillowReader

HEIGHT, WIDTH = 48, 64


def scene(height=HEIGHT, width=WIDTH):
    """A smooth picture whose four corners differ: red grows right, green down."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / (width - 1), y * 255 / (height - 1), np.full((height, width), 60)]
    return np.stack(channels, axis=2).astype(np.uint8)


def save(image, kind, **options):
    out = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(out, kind, **options)
    return out.getvalue()


def noisy(height=200, width=300):
    noise = np.random.default_rng(0).normal(0, 40, (height // 8, width // 8, 3))
    noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(scene(height, width) + noise, 0, 255).astype(np.uint8)


def assert_close(got, expected, mean):
    assert got.shape == expected.shape
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - expected.astype(int)).mean() < mean


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_fast_path_agrees_with_pillow(subsampling, progressive):
    data = save(noisy(), "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert_close(decode(data), expected, mean=1.0)


def test_agrees_with_pillow_on_real_photographs(real_data):
    files = sorted((real_data / "coco_mini" / "val2017").glob("*.jpg"))[:20]
    assert files
    for file in files:
        expected = np.asarray(Image.open(file).convert("RGB"))
        # The quick inverse transform and chroma upsampling differ by a level or two.
        assert_close(decode(file.read_bytes()), expected, mean=2.0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("PPM", {}),
    ],
)
def test_lossless_formats_are_exact(kind, options):
    np.testing.assert_array_equal(decode(save(scene(), kind, **options)), scene())


@pytest.mark.parametrize("grey", [False, True])
def test_a_plain_png_is_what_pillow_makes_of_it_damaged_or_not(grey):
    image = scene()[:23, :31, 0] if grey else scene()[:23, :31]
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", 45_455))
    chunks.add(b"sRGB", b"\0")
    data = save(image, "PNG", pnginfo=chunks, dpi=(72, 72))
    assert isinstance(open_image(data), decode_module._PngReader)
    np.testing.assert_array_equal(decode(data), image if not grey else np.dstack([image] * 3))
    for position in range(0, len(data), 7):
        broken = bytearray(data)
        broken[position] ^= 0x11
        try:
            expected = PillowReader(bytes(broken), 10**6).pixels()
        except DecodeError:
            with pytest.raises(DecodeError):
                decode(bytes(broken), max_pixels=10**6)
        else:
            np.testing.assert_array_equal(decode(bytes(broken), max_pixels=10**6), expected)


def test_a_png_that_says_more_is_left_to_pillow():
    image = Image.fromarray(scene()[:20, :20])
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "x")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 150)
    for data in (
        save(image, "PNG", pnginfo=text),
        save(image, "PNG", exif=exif),
        save(image, "PNG", transparency=(0, 0, 0)),
        save(image.convert("RGBA"), "PNG"),
        save(image.quantize(8), "PNG"),
        save(wide, "PNG"),
        save(image, "PNG")[:-1],
    ):
        assert not decode_module._is_plain_png(data)


def test_gif_of_a_few_colours_is_exact():
    image = scene() // 86 * 86
    np.testing.assert_array_equal(decode(save(Image.fromarray(image).quantize(64), "GIF")), image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_grey_becomes_three_equal_channels(kind):
    grey = scene()[..., 0]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(grey).convert("RGB") if kind == "WEBP" else Image.fromarray(grey)
    got = decode(save(image, kind, **options))
    assert_close(got, np.repeat(grey[..., None], 3, axis=2), mean=1.5)
    assert (got == got[..., :1]).all()


def test_cmyk_of_adobe_is_not_inverted():
    # Pillow writes CMYK JPEG as Adobe's programs do: inverted, with their marker.
    data = save(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert_close(decode(data), scene(), mean=3)


def test_cmyk_without_the_adobe_marker_is_taken_as_inverted_too():
    data = save(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95)
    start = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[start + 2 : start + 4])[0]
    assert_close(decode(data[:start] + data[start + 2 + length :]), scene(), mean=3)


def test_ycck_is_read_like_pillow_reads_it():
    # A CMYK file says by its transform flag that the inks are stored as YCCK; the same numbers
    # then mean other colours, and Pillow's reader tells which.
    data = save(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95)
    start = data.index(b"Adobe") + 11
    assert data[start] == 0
    ycck = data[:start] + b"\x02" + data[start + 1 :]
    assert simplejpeg.decode_jpeg_header(ycck)[2] == "YCCK"
    assert_close(decode(ycck), np.asarray(Image.open(io.BytesIO(ycck)).convert("RGB")), mean=3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white(mode):
    rgba = np.dstack([scene(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    rgba[:10, :, 3] = 255
    image = Image.fromarray(rgba)
    if mode == "PA":
        image = image.quantize(256)
    data = save(image.convert(mode) if mode == "LA" else image, "PNG")
    got = decode(data)
    assert (got[12:] == 255).all()
    assert (got[:8, :40] < 250).any()


def test_half_transparency_is_blended():
    rgba = np.full((4, 4, 4), (0, 0, 0, 128), np.uint8)
    assert abs(int(decode(save(rgba, "PNG"))[0, 0, 0]) - 127) <= 1


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    got = decode(save(image, "PNG", transparency=0))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[4, 4].tolist() == [0, 0, 255]


def test_one_bit_pictures_are_black_and_white():
    got = decode(save(Image.new("1", (8, 8), 1), "PNG"))
    assert (got == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 16).astype(np.uint16).reshape(16, 64)
    expected = np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode(save(ramp, kind)), expected)


def test_sixteen_bit_colour_is_scaled_not_clipped():
    rows = (scene().astype(">u2") * 257).tobytes()
    stride = WIDTH * 6
    body = b"".join(b"\0" + rows[i : i + stride] for i in range(0, len(rows), stride))

    def chunk(name, payload):
        check = struct.pack(">I", zlib.crc32(name + payload))
        return struct.pack(">I", len(payload)) + name + payload + check

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(data), scene())


def test_float_pictures_are_refused_with_the_remedy():
    with pytest.raises(DecodeError, match="8 or 16 bits"):
        decode(save(np.zeros((4, 4), np.float32), "TIFF"))


# What a viewer has to do with the stored pixels for each value of the tag (EXIF 2.3, 4.6.4).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_undone(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](scene()))
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = save(stored, kind, exif=exif, **options)
    picture = open_image(data)
    assert (picture.height, picture.width) == (HEIGHT, WIDTH)
    assert_close(decode(data), scene(), mean=2)


def test_exif_is_found_behind_a_profile_with_the_mark_of_a_scan():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = save(scene(), "JPEG", exif=exif)
    profile = b"ICC_PROFILE\0\1\1" + b"\xff\xda" * 1000
    before = b"\xff\xe2" + (2 + len(profile)).to_bytes(2) + profile
    pixels = decode(data[:2] + before + data[2:])
    np.testing.assert_array_equal(pixels, decode(data))
    assert pixels.shape == (WIDTH, HEIGHT, 3)


def test_a_jpeg_of_the_size_wanted_is_decoded_into_its_place():
    data = save(scene(), "JPEG")
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert decode_into(data, out)
    np.testing.assert_array_equal(out, decode(data))
    grey = save(scene()[..., 0], "JPEG")
    assert decode_into(grey, out)
    np.testing.assert_array_equal(out, decode(grey))


def test_what_is_not_just_that_is_left_to_others():
    exif = Image.Exif()
    exif[0x0112] = 3
    inks = Image.fromarray(scene()).convert("CMYK")
    data = save(scene(), "JPEG")
    others = (
        save(scene(), "PNG"),
        save(scene(), "JPEG", exif=exif),
        save(inks, "JPEG"),
        data[: len(data) // 2],
        b"\xff\xd8",
        b"",
    )
    for other in others:
        assert not decode_into(other, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    for larger in (1, -1):
        assert not decode_into(data, np.zeros((HEIGHT + larger, WIDTH, 3), np.uint8))


def test_damaged_exif_does_not_cost_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(save(scene(), "JPEG", exif=exif))
    start = data.index(b"Exif\0\0") + 6
    data[start : start + 8] = b"\xff" * 8
    assert decode(bytes(data)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == (255, 0, 0)).all()


def test_reduced_decoding_covers_the_target_and_shows_the_same():
    image = noisy(640, 480)
    data = save(image, "JPEG", quality=95)
    for min_size, shape in (
        (480, (640, 480)),
        (241, (640, 480)),
        (240, (320, 240)),
        (180, (240, 180)),
        (60, (80, 60)),
        (1, (80, 60)),
        (900, (640, 480)),
    ):
        got = decode(data, min_size=min_size)
        assert got.shape[:2] == shape
        expected = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
        assert_close(got, expected, mean=3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
def test_rows_above_a_cut_are_those_of_the_whole(scale, subsampling, progressive):
    options = {"quality": 90, "subsampling": subsampling, "progressive": progressive}
    picture = open_image(save(noisy(640, 480), "JPEG", **options))
    pixels, bottom = picture.pixels(scale), 300
    part = picture.pixels(scale, bottom=bottom)
    rows = int(bottom * scale)
    assert (part.shape[0] < pixels.shape[0]) is not progressive
    np.testing.assert_array_equal(part[:rows], pixels[:rows])


@pytest.mark.parametrize("kind", ["cut", "padded"])
def test_bytes_that_are_not_wanted_cost_no_second_decoding(monkeypatch, kind):
    data = save(noisy(480, 640), "JPEG", quality=90)
    calls, decode_jpeg = [], simplejpeg.decode_jpeg

    def counting(*arguments, **options):
        calls.append(options)
        return decode_jpeg(*arguments, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", counting)
    if kind == "cut":
        open_image(data).pixels(bottom=200)
    else:
        open_image(data[:-2] + bytes(6) + data[-2:]).pixels()
    assert len(calls) == 1


def test_a_cut_does_not_hide_that_the_end_is_missing():
    data = save(noisy(640, 480), "JPEG")
    with pytest.raises(DecodeError, match="damaged JPEG"):
        open_image(data[: len(data) * 3 // 4]).pixels(bottom=100)


def jpeg():
    return save(noisy(), "JPEG", quality=90)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
@pytest.mark.parametrize(
    "kind", ["JPEG", "progressive", "CMYK", "PNG", "GIF", "WEBP", "BMP", "TIFF"]
)
def test_truncated_pictures_are_refused(kind, share):
    options = {"progressive": {"progressive": True}, "WEBP": {"lossless": True}}.get(kind, {})
    image = Image.fromarray(noisy())
    if kind == "CMYK":
        image = image.convert("CMYK")
    form = {"progressive": "JPEG", "CMYK": "JPEG"}.get(kind, kind)
    if kind == "TIFF":
        options = {"compression": "tiff_deflate"}
    data = save(image, form, **options)
    with pytest.raises(DecodeError, match=r"\w"):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("min_size", [None, 20])
def test_a_jpeg_cut_short_but_closed_is_refused(min_size):
    # libjpeg fills the rest with grey and only warns.
    data = jpeg()
    with pytest.raises(DecodeError, match="damaged JPEG"):
        decode(data[: len(data) // 2] + b"\xff\xd9", min_size=min_size)


def test_padding_before_the_end_marker_is_harmless():
    data = jpeg()
    np.testing.assert_array_equal(decode(data[:-2] + b"\0\0\0" + data[-2:]), decode(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "no image format"),
        (b"\xff\xd8", "damaged"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged|no image format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image format"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(data, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_too_many_pixels_are_refused_from_the_header(kind):
    with pytest.raises(DecodeError, match="more than the 1,000 pixels"):
        decode(save(scene(), kind), max_pixels=200 if kind == "JPEG" else 1000)


def test_a_bomb_is_refused_before_it_is_decoded():
    # 30,000 x 30,000 of one colour: 100 KB that would become 2.7 GB.
    row = zlib.compressobj()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = row.compress(b"\0" * 1000) + row.flush()
    data = b"\x89PNG\r\n\x1a\n"
    for name, payload in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + payload))
        data += struct.pack(">I", len(payload)) + name + payload + check
    with pytest.raises(DecodeError, match="pixels"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_flipped_bytes_never_raise_anything_else(kind):
    rng, data = np.random.default_rng(0), save(noisy(40, 56), kind)
    for _ in range(60):
        broken = bytearray(data)
        for position in rng.integers(0, len(data), 4):
            broken[position] = rng.integers(0, 256)
        try:
            image = decode(bytes(broken), max_pixels=10**6)
        except DecodeError as error:
            assert str(error)
        else:
            assert image.ndim == 3
            assert image.shape[2] == 3


def test_the_smallest_pictures():
    for kind in ("JPEG", "PNG", "GIF"):
        assert decode(save(Image.new("RGB", (1, 1), "white"), kind), min_size=8).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P3 2000 1001 255\n" + b"0 " * 30, "2,000,000 pixels allowed in PPM as text"),
        (b"P1 2000 1001\n" + b"0 " * 30, "2,000,000 pixels allowed in PPM as text"),
        (b"P6\n#" + b"x" * 10_000_000 + b"\n2 2 255\n" + bytes(12), "no image format"),
        (b"P6" + b" " * 10_000_000 + b"\n2 2 255\n" + bytes(12), "no image format"),
        (b"P6" + b"\n#" * 5_000_000 + b"\n2 2 255\n" + bytes(12), "no image format"),
    ],
)
def test_text_that_is_parsed_in_python_is_bounded(data, message):
    start = time.process_time()
    with pytest.raises(DecodeError, match=message):
        decode(data)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "header",
    [b"P6 2 2 255\n", b"P6\n#a\n# b\n2\t2 #c\n255\n", b"P6\n" + b"\n" * 9999 + b"2 2 255\n"],
)
def test_headers_of_ppm(header):
    assert decode(header + bytes(range(12)))[1, 1].tolist() == [9, 10, 11]
