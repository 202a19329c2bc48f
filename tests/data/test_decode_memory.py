"""Large images take few times their own memory, and wait for each other."""

import io
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from jaxtag.data import image_reader, pillow_reader
from jaxtag.data.decode import DecodeError, decode, open_image
from jaxtag.datasets.verify import _without_metadata


def encoded(mode, kind, size, **options):
    buffer = io.BytesIO()
    Image.new(mode, size, 1 if mode == "P" else None).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 1}),
        ("P", "GIF", {"transparency": 1}),
        ("I;16", "PNG", {}),
        ("1", "PNG", {}),
        ("CMYK", "JPEG", {}),
        ("RGBA", "TIFF", {}),
        ("RGBA", "WEBP", {"lossless": True}),
    ],
)
def test_strips_are_what_the_whole_is(monkeypatch, mode, kind, options):
    noise = np.random.default_rng(0).integers(0, 255, (37, 53, 4), np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        image = image.convert("RGB").quantize(16)
    elif mode != "RGBA":
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    expected = decode(buffer.getvalue())
    monkeypatch.setattr(image_reader, "_STRIP_PIXELS", 200)
    np.testing.assert_array_equal(decode(buffer.getvalue()), expected)
    monkeypatch.setattr(pillow_reader, "LARGE_PIXELS", 10)  # a WebP is then read by OpenCV
    np.testing.assert_array_equal(decode(buffer.getvalue()), expected)


def test_a_long_thin_image_is_refused(monkeypatch):
    monkeypatch.setattr(image_reader, "_MAX_SIDE", 100)
    with pytest.raises(DecodeError, match="no side may have more than 100 pixels"):
        decode(encoded("RGB", "PNG", (1, 101)))


def test_slow_formats_have_limits_of_their_own(monkeypatch):
    monkeypatch.setattr(pillow_reader, "_SLOW_PIXELS", {"JPEG2000": 5000, "AVIF": 3000})
    data = encoded("RGB", "JPEG2000", (128, 96))
    image = open_image(data)
    assert (image.height, image.width, image.factor(1.0)) == (96, 128, 0.5)
    assert image.pixels().shape == (48, 64, 3)
    with pytest.raises(DecodeError, match="5,000 pixels allowed in JPEG2000"):
        decode(encoded("RGB", "JPEG2000", (128, 96), num_resolutions=1))
    if "AVIF" in Image.SAVE:
        with pytest.raises(DecodeError, match="3,000 pixels allowed in AVIF"):
            decode(encoded("RGB", "AVIF", (128, 96)))


def test_large_images_wait_for_each_other():
    budget = image_reader._MemoryBudget(100)
    running, most = [], []
    lock = threading.Lock()

    def work(size):
        with budget.hold(size):
            with lock:
                running.append(size)
                most.append(sum(running))
            with lock:
                running.remove(size)

    threads = [threading.Thread(target=work, args=(40,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 8
    assert max(most) <= 80
    with budget.hold(1000):  # one that is larger than all runs alone
        pass


_PEAK = """
import resource, sys
from jaxtag.data.decode import decode
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = decode(data).nbytes
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / size)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "WEBP", {"lossless": True, "quality": 0, "method": 0}),
        ("RGB", "WEBP", {"lossless": True, "quality": 0, "method": 0}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("RGBA", "PNG", {}),
        ("P", "GIF", {"transparency": 1}),
        ("RGBA", "TIFF", {"compression": "tiff_deflate"}),
    ],
)
def test_decoding_takes_at_most_three_times_the_image(tmp_path, mode, kind, options):
    path = tmp_path / "image"
    path.write_bytes(encoded(mode, kind, (8944, 8944), **options))
    command = [sys.executable, "-c", _PEAK, path]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert float(ran.stdout) <= 3.05


def mutated(data, rng):
    """The data cut, with other bytes, with some more or fewer, or ended early."""
    position = int(rng.integers(len(data)))
    junk = rng.integers(0, 256, int(rng.integers(1, 20)), np.uint8).tobytes()
    return (
        data[:position],
        data[:position] + junk[:1] + data[position + 1 :],
        data[:position] + junk + data[position:],
        data[:position] + data[position + len(junk) :],
        data[:position] + b"\xff\xd9" + junk,
    )[rng.integers(5)]


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_what_prepare_stores_is_what_decode_sees(count, capfd):
    """Mutated images are judged alike with and without their metadata, to the pixel."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (24, 40, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    seeds = []
    for kind, options in (
        ("JPEG", {"exif": exif, "comment": b"x"}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_rows": 1}),
        ("PNG", {"exif": exif}),
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exif": exif}),
        ("WEBP", {"xmp": b"<x/>"}),
        ("TIFF", {"compression": "jpeg"}),
        ("GIF", {"comment": b"x"}),
        ("BMP", {}),
    ):
        buffer = io.BytesIO()
        noise.save(buffer, kind, **options)
        seeds.append(buffer.getvalue())
    for number in range(count):
        data = mutated(seeds[number % len(seeds)], rng)
        images = []
        for change in (bytes, _without_metadata):
            try:
                images.append(decode(change(data), max_pixels=10**6))
            except DecodeError:
                images.append(None)
        raw, stored = images
        assert (raw is None) == (stored is None)
        if raw is not None:
            np.testing.assert_array_equal(raw, stored)
    capfd.readouterr()  # libpng's own messages
