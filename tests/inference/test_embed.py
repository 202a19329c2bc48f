"""Keywords in the images themselves: every other byte stays, and no image is ever lost."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtag.data import files
from jaxtag.inference.writers import EmbedWriter, embed, xmp_containers
from jaxtag.inference.writers.embed import embed as embed_into
from jaxtag.inference.writers.sidecar_programs import get_program

KEYWORDS = ["Wald & Wiese", "sea"]
NOISE = np.random.RandomState(0).randint(0, 256, (40, 60, 4), np.uint8)


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F], tags[0x0112], tags[0x9C9E] = "Camera", 6, "holiday".encode("utf-16-le")
    return tags


def save(folder: Path, name: str) -> Path:
    """An image of a kind that is named by its name."""
    path, rgb = folder / name, Image.fromarray(NOISE[..., :3])
    alpha = Image.fromarray(NOISE)
    if name == "plain.jpg":
        rgb.save(path)
    elif name == "exif.jpg":
        rgb.save(path, exif=exif(), progressive=True, icc_profile=b"profile" * 99)
    elif name == "several.jpg":
        rgb.save(path, "MPO", save_all=True, append_images=[rgb.rotate(180)])
    elif name == "trailer.jpg":  # a phone's film behind the image
        rgb.save(path)
        path.write_bytes(path.read_bytes() + b"ftypmp42" + bytes(999))
    elif name in ("alpha.png", "alpha.webp"):
        alpha.save(path, lossless=True) if name == "alpha.webp" else alpha.save(path)
    elif name in ("exif.png", "exif.webp"):
        rgb.save(path, exif=exif())
    elif name in ("animated.png", "animated.webp"):
        rgb.save(path, save_all=True, append_images=[rgb.rotate(180)], lossless=True)
    else:
        rgb.save(path)
    return path


KINDS = [
    *("plain.jpg", "exif.jpg", "several.jpg", "trailer.jpg"),
    *("plain.png", "alpha.png", "exif.png", "animated.png"),
    *("plain.webp", "alpha.webp", "exif.webp", "animated.webp"),
]


def subjects(image: Image.Image) -> list[str]:
    """The keywords in what Pillow reads as XMP."""
    packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
    text = packet if isinstance(packet, str) else packet.decode()
    root = ElementTree.fromstring(re.sub(r"<\?xpacket.*?\?>", "", text))
    subject = next(root.iter("{http://purl.org/dc/elements/1.1/}subject"))
    return [str(item.text) for item in subject[0]]


def frames(path: Path) -> list[bytes]:
    with Image.open(path) as image:
        pixels = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels.append(image.tobytes())
        return pixels


@pytest.mark.parametrize("name", KINDS)
def test_keywords_read_back_and_nothing_else_changes(tmp_path, name):
    path = save(tmp_path, name)
    path.chmod(0o640)
    old, pixels = path.read_bytes(), frames(path)
    assert embed_into(path, KEYWORDS, "a <red> boat")
    backup = path.with_name(f"{name}_original")
    assert backup.read_bytes() == old and path.stat().st_mode & 0o777 == 0o640
    assert frames(path) == pixels
    with Image.open(path) as image, Image.open(backup) as before:
        assert subjects(image)[-2:] == KEYWORDS
        assert dict(image.getexif()) == dict(before.getexif())
        assert image.info.get("icc_profile") == before.info.get("icc_profile")
        assert ("holiday" in subjects(image)) == ("exif" in name)
    assert xmp_containers.other_content(path.read_bytes()) == xmp_containers.other_content(old)
    once = path.read_bytes()
    assert not embed_into(path, KEYWORDS, "a <red> boat") and path.read_bytes() == once
    assert embed_into(path, ["tree"], None)
    with Image.open(path) as image:
        assert subjects(image)[-1] == "tree"
    assert backup.read_bytes() == old
    assert sorted(file.name for file in tmp_path.iterdir()) == [name, f"{name}_original"]
    assert files.list_files([tmp_path]) == [str(path)]


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_them(tmp_path):
    paths = [save(tmp_path, name) for name in KINDS]
    program = get_program("digikam").fields
    for path in paths:
        embed_into(path, KEYWORDS, "a boat", program)
    fields = ["-Subject", "-TagsList", "-HierarchicalSubject", "-XMP:Description", "-Warning"]
    command = ["exiftool", "-json", "-a", *fields, "-validate", *paths]
    done = subprocess.run(command, capture_output=True, check=True)
    results = json.loads(done.stdout)
    assert len(results) == len(KINDS)
    command[-len(paths) :] = [Path(f"{path}_original") for path in paths]
    before = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    for result, original in zip(results, before, strict=True):
        assert result["TagsList"] == result["HierarchicalSubject"] == KEYWORDS
        assert result["Subject"][-2:] == KEYWORDS and result["Description"] == "a boat"
        assert result.get("Warning") == original.get("Warning")
        assert result["Validate"] == original["Validate"]


def test_what_another_program_wrote_is_merged(tmp_path):
    packet = Path(__file__).with_name("test_sidecar_programs.py").read_text("utf-8")
    packet = packet.split('LIGHTROOM = """')[1].split('"""')[0]
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE[..., :3]).save(path, xmp=packet.encode())
    embed_into(path, ["sea"], None)
    with Image.open(path) as image:
        written = image.info["xmp"].decode()
    assert [line for line in packet.splitlines() if line not in written.splitlines()] == []
    assert written.count("<rdf:li>sea</rdf:li>") == 4  # two lists, and twice as ours


REFUSED = {
    "a.tif": "JPEG, PNG and WebP files only",
    "b.gif": "JPEG, PNG and WebP files only",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_formats_are_told(tmp_path, name, caplog):
    path = save(tmp_path, name)
    old = path.read_bytes()
    writer = EmbedWriter(0.5)
    writer.write({"file": str(path), "tags": [{"tag": "sea", "score": 0.9}]})
    writer.close()
    assert (writer.num_skipped, writer.num_failed) == (1, 0)
    assert REFUSED[name] in caplog.text
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def segment(content: bytes, marker: int = 0xE1) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def test_files_that_cannot_be_followed_stay(tmp_path):
    sound = save(tmp_path, "plain.jpg").read_bytes()
    sound_png = save(tmp_path, "plain.png").read_bytes()
    packet = b"http://ns.adobe.com/xap/1.0/\0"
    compressed = xmp_containers._png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0x")
    odd = {
        "cut.jpg": sound[:30],
        "extended.jpg": sound[:2] + segment(b"http://ns.adobe.com/xmp/extension/\0") + sound[2:],
        "between.jpg": sound[:2] + segment(b"MPF\0", 0xE2) + segment(packet) + sound[2:],
        "no_packet.jpg": sound[:2] + segment(packet + b"<a/>") + sound[2:],
        "cut.png": sound_png[:40],
        "compressed.png": sound_png[:33] + compressed + sound_png[33:],
        "broken.png": sound_png[:60] + bytes(50) + sound_png[110:],
        "cut.webp": save(tmp_path, "plain.webp").read_bytes()[:90],
    }
    for name, data in odd.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError):
            embed_into(tmp_path / name, ["sea"], None)
        assert (tmp_path / name).read_bytes() == data
    assert not list(tmp_path.glob("*_original")) and not list(tmp_path.glob("*.partial"))
    long = ["x" * 66_000]
    with pytest.raises(ValueError, match="more than a JPEG takes"):
        embed_into(tmp_path / "plain.jpg", long, None)


@pytest.mark.parametrize("damage", ["pixels", "bytes", "keywords"])
def test_a_faulty_write_is_noticed(tmp_path, monkeypatch, damage):
    path = save(tmp_path, "exif.jpg")
    old, replace = path.read_bytes(), xmp_containers.replace_packet

    def faulty(data: bytes, packet: bytes) -> bytes:
        new = replace(data, b"<a/>" if damage == "keywords" else packet)
        place = new.index(b"profile") if damage == "bytes" else len(new) - 99
        return new if damage == "keywords" else new[:place] + b"!" + new[place + 1 :]

    monkeypatch.setattr(xmp_containers, "replace_packet", faulty)
    if damage == "pixels":  # they are compared, too, whatever the bytes are
        monkeypatch.setattr(xmp_containers, "other_content", lambda data: b"")
    with pytest.raises(ValueError):
        embed_into(path, ["sea"], None)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["exif.jpg"]


def test_a_disk_without_links_gets_a_copy(tmp_path, monkeypatch):
    path = save(tmp_path, "plain.jpg")
    old = path.read_bytes()

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    embed_into(path, ["sea"], None)
    assert Path(f"{path}_original").read_bytes() == old != path.read_bytes()


def test_what_a_killed_run_left_is_removed(tmp_path):
    path = save(tmp_path, "plain.jpg")
    (tmp_path / "plain.jpg.0123456789abcdef.partial").write_bytes(b"half")
    writer = EmbedWriter(0.5)
    writer.write({"file": str(path), "tags": [{"tag": "sea", "score": 0.9}]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.jpg", "plain.jpg_original"]


# Forks a process that embeds without end for each line that it reads, and prints its number.
EMBEDDING = """
import os, sys
from jaxtag.inference.writers import EmbedWriter
for line in sys.stdin:
    process = os.fork()
    if process:
        print(process, flush=True)
        os.waitpid(process, 0)
        print("ended", flush=True)
        continue
    for number in range(10**6):
        writer = EmbedWriter(0.5)
        for path in sys.argv[1:]:
            tags = [{"tag": f"{line.strip()} {number} {k}", "score": 0.9} for k in range(9)]
            writer.write({"file": path, "tags": tags})
"""


def storm(folder: Path, num_kills: int) -> None:
    """Kills a process that embeds without end, at random moments, and looks at the images."""
    paths = [save(folder, name) for name in ("exif.jpg", "alpha.png", "exif.webp")]
    old = {path: (path.read_bytes(), frames(path)) for path in paths}
    rng = np.random.RandomState(1)
    num_changed = 0
    server = subprocess.Popen(
        [sys.executable, "-c", EMBEDDING, *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert server.stdin is not None and server.stdout is not None
    for kill in range(num_kills):
        before = [path.read_bytes() for path in paths]
        server.stdin.write(f"{kill}\n")
        server.stdin.flush()
        process = int(server.stdout.readline())
        time.sleep(rng.uniform(0.02, 0.3))
        os.kill(process, signal.SIGKILL)
        assert server.stdout.readline() == "ended\n"
        num_changed += before != [path.read_bytes() for path in paths]
        for path, (data, pixels) in old.items():
            assert frames(path) == pixels
            backup = Path(f"{path}_original")
            assert path.read_bytes() == data or backup.read_bytes() == data
            assert xmp_containers.other_content(path.read_bytes()) == (
                xmp_containers.other_content(data)
            )
    server.stdin.close()
    assert server.wait() == 0
    print(f"{num_changed} of {num_kills} processes had replaced an image")
    assert num_changed > num_kills / 4
    for path in paths:
        EmbedWriter(0.5).write({"file": str(path), "tags": [{"tag": "end", "score": 1.0}]})
    assert not list(folder.glob("*.partial"))


def test_a_kill_while_embedding_loses_nothing(tmp_path):
    storm(tmp_path, 8)


@pytest.mark.slow
def test_200_kills_while_embedding_lose_nothing(tmp_path):
    storm(tmp_path, 200)


def test_a_changed_file_is_not_replaced(tmp_path, monkeypatch):
    path = save(tmp_path, "plain.jpg")
    verify = embed._verify

    def edit(*arguments):
        verify(*arguments)
        path.write_bytes(b"edited by somebody")

    monkeypatch.setattr(embed, "_verify", edit)
    with pytest.raises(ValueError, match="changed meanwhile"):
        embed_into(path, ["sea"], None)
    assert path.read_bytes() == b"edited by somebody"
