"""Metadata go, pixels and orientation stay."""

import io

import numpy as np
import pytest
from labelled import lay, records
from PIL import Image, PngImagePlugin

from jaxtag import datasets
from jaxtag.data.decode import decode
from jaxtag.datasets.strip_metadata import MetadataError, strip

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
FORMATS = ["PNG", "WEBP"]


def encoded(kind, **save):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, lossless=True, **save)
    return buffer.getvalue()


def personal(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    if kind == "WEBP":
        return encoded(kind, exif=exif.tobytes(), xmp=b"SecretXmp")
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "SecretName")
    texts.add_text("Comment", "SecretZip", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "SecretXmp")
    return encoded(kind, exif=exif.tobytes(), pnginfo=texts)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", FORMATS)
def test_metadata_go_and_pixels_stay(kind, orientation):
    data = personal(kind, orientation) + b"SecretTrailer"
    assert b"SecretCamera" in data
    stripped = strip(data)
    assert b"Secret" not in stripped
    assert b"zTXt" not in stripped
    assert np.array_equal(decode(stripped), decode(data))
    assert decode(stripped).shape == ((9, 6, 3) if orientation == 6 else (6, 9, 3))
    with Image.open(io.BytesIO(stripped)) as image:
        assert dict(image.getexif()) == ({0x0112: 6} if orientation == 6 else {})
        assert not image.info.keys() & {"xmp", "Author", "Comment", "XML:com.adobe.xmp"}
    assert np.array_equal(decode(strip(stripped)), decode(data))


@pytest.mark.parametrize("kind", FORMATS)
def test_an_orientation_in_xmp_alone_is_kept(kind):
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    data = encoded(kind, pnginfo=texts, xmp=xmp.encode())
    assert decode(data).shape == (9, 6, 3)
    assert b"xmpmeta" not in strip(data)
    assert np.array_equal(decode(strip(data)), decode(data))


@pytest.mark.parametrize("kind", [*FORMATS, "GIF", "BMP"])
def test_what_has_no_metadata_is_untouched(kind):
    data = encoded(kind)
    assert strip(data) is data


def rare(kind):
    """A picture of a rare format, with metadata where Pillow can write them."""
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    buffer = io.BytesIO()
    image = Image.fromarray(PIXELS)
    if kind == "GIF":
        image.convert("P").save(buffer, kind, comment=b"SecretComment")
    else:
        image.save(buffer, kind, exif=exif, comment="SecretComment")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "AVIF", "JPEG2000"])
def test_rare_formats_become_png(kind):
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    data = rare(kind)
    assert b"Secret" in data
    stripped = strip(data)
    assert b"Secret" not in stripped and stripped.startswith(b"\x89PNG")
    assert np.array_equal(decode(stripped), decode(data))


def test_colour_and_transparency_stay():
    buffer = io.BytesIO()
    profile = b"a profile of colours" * 7
    pixels = np.dstack([PIXELS, PIXELS[..., :1]])
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exif=exif, icc_profile=profile)
    stripped = strip(buffer.getvalue())
    with Image.open(io.BytesIO(stripped)) as image:
        assert image.info["icc_profile"] == profile
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(buffer)))
    assert b"Secret" not in stripped


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_cannot_be_followed_is_no_secret(kind):
    data = personal(kind, 1)
    with pytest.raises(MetadataError, match="wrong length"):
        strip(data[:-30])


@pytest.mark.parametrize("keep", [False, True])
def test_prepare_strips_unless_told(tmp_path, keep):
    table = "file,tags,split\na.png,x,train\nb.webp,x,train\n"
    files = {"a.png": personal("PNG", 6), "b.webp": personal("WEBP", 6)}
    source = lay(tmp_path / "own", {"t.csv": table, **files})
    summary = datasets.prepare("mine", source, tmp_path / "d", keep_exif=keep)
    for file, record in records(summary, "train").items():
        assert (b"Secret" in record["image"]) is keep
        assert np.array_equal(decode(record["image"]), decode(files[file]))
