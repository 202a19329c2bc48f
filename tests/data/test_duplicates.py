"""Images that are there twice, look alike or were taken in a burst, among others."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxtag.data import duplicates
from jaxtag.errors import UsageError
from jaxtag.inference.writers import DuplicatesWriter


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Soft blobs, as different from each other as photos are."""
    rng = np.random.RandomState(seed)
    small = rng.randint(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC))


def taken(second: float, camera: str = "A") -> Image.Exif:
    exif = Image.Exif()
    exif[0x0110] = camera
    exif.get_ifd(0x8769)[0x9003] = f"2024:07:15 14:30:{int(second):02}"
    exif.get_ifd(0x8769)[0x9291] = f"{second % 1:.3f}"[2:]
    return exif


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for seed in range(20):
        picture(seed).save(folder / f"other{seed}.jpg")
    picture(50).save(folder / "a.jpg", quality=95)
    shutil.copy(folder / "a.jpg", folder / "a_copy.jpg")
    data = (folder / "a.jpg").read_bytes()
    comment = b"\xff\xfe\0\x06note"
    (folder / "a_note.jpg").write_bytes(data[:2] + comment + data[2:])
    picture(50).resize((80, 60)).save(folder / "a_small.jpg", quality=60)
    for number in range(3):  # the camera moved a little
        image = picture(51, (200, 150)).crop((4 * number, 0, 180 + 4 * number, 140))
        image.save(folder / f"burst{number}.jpg", exif=taken(10 + 0.4 * number))
    picture(51, (200, 150)).crop((10, 0, 190, 140)).save(folder / "later.jpg", exif=taken(40))
    image = picture(51, (200, 150)).crop((11, 0, 191, 140))
    image.save(folder / "other_camera.jpg", exif=taken(10.4, "B"))
    for number, level in enumerate((0, 0, 120, 255)):  # hashes alone cannot tell these
        Image.new("RGB", (32, 32 + number), (level,) * 3).save(folder / f"flat{number}.png")
    (folder / "broken.jpg").write_bytes(data[:300])
    return folder


def groups(folder: Path) -> dict[str, dict[str, str]]:
    """The first file of each group -> file -> relation."""
    prints = [duplicates.fingerprint(str(path)) for path in sorted(folder.iterdir())]
    found = duplicates.find_groups([image for image in prints if image])
    names = [[(Path(m.image.file).name, m.relation) for m in group] for group in found]
    return {group[0][0]: dict(group[1:]) for group in names}


def test_groups(album):
    found = groups(album)
    (first,) = [name for name in found if name.startswith("a")]
    relations = found.pop(first)
    assert first == "a_note.jpg"  # as many pixels, more bytes
    assert relations == {
        "a.jpg": "same pixels",
        "a_copy.jpg": "same pixels",
        "a_small.jpg": "similar",
    }
    assert found.pop("flat1.png") == {"flat0.png": "similar"}
    (burst,) = found.values()
    members = {*found, *burst}
    assert {"burst0.jpg", "burst1.jpg", "burst2.jpg"} <= members
    assert not any(name.startswith(("other1", "flat")) for name in members)


def test_a_burst_needs_time_and_camera(tmp_path):
    def save(name: str, left: int, second: float, camera: str = "A") -> None:
        image = picture(7, (260, 150)).crop((left, 0, left + 180, 140))
        image.save(tmp_path / name, exif=taken(second, camera))

    save("a.jpg", 0, 10.0)
    save("b.jpg", 12, 11.5)
    save("late.jpg", 24, 20.0)
    save("other.jpg", 36, 11.0, "B")
    assert groups(tmp_path) in ({"a.jpg": {"b.jpg": "burst"}}, {"b.jpg": {"a.jpg": "burst"}})


def test_no_two_of_many_different_images(real_data):
    paths = sorted((real_data / "coco_mini").glob("*/*.jpg"))
    prints = [duplicates.fingerprint(str(path)) for path in paths]
    assert len(paths) > 200 and all(prints)
    assert duplicates.find_groups([image for image in prints if image]) == []


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_the_table(album, tmp_path, suffix):
    table = tmp_path / f"groups.{suffix}"
    writer = DuplicatesWriter(table, num_threads=2)
    for path in sorted(album.iterdir()):
        writer.write({"file": str(path), "tags": []})
    writer.write({"file": "no.jpg", "error": "No such file"})
    writer.close()
    text = table.read_text("utf-8-sig")
    rows = json.loads(text) if suffix == "json" else list(csv.DictReader(text.splitlines()))
    assert list(rows[0]) == ["group", "file", "relation", "width", "height", "bytes", "time"]
    first = next(row for row in rows if row["file"].endswith("a_note.jpg"))
    assert (first["relation"], str(first["width"]), str(first["height"])) == ("", "160", "120")
    burst = next(row for row in rows if row["file"].endswith("burst1.jpg"))
    assert burst["time"] == "2024-07-15 14:30:10"
    assert {str(row["group"]) for row in rows} == {"1", "2", "3"}


def test_another_form_of_table():
    with pytest.raises(UsageError, match=r"--duplicates=a\.txt: must end in \.csv or \.json"):
        DuplicatesWriter(Path("a.txt"), 1)


def test_many_images_are_compared_quickly():
    """Hashes of 5,000 images at random: next to none are near."""
    rng = np.random.RandomState(0)
    thumbnails = rng.randint(0, 256, (5000, 8, 8, 3)).astype(np.uint8)
    images = [
        duplicates.Fingerprint(
            str(n),
            1,
            n.to_bytes(2, "big"),
            (9, 9),
            int.from_bytes(rng.bytes(8), "big"),
            thumbnails[n],
            None,
            "",
        )
        for n in range(5000)
    ]
    near = images[17].__dict__ | {"file": "near", "bits": images[17].bits ^ 0b1001, "digest": b"x"}
    found = duplicates.find_groups([*images, duplicates.Fingerprint(**near)])
    assert [[m.image.file for m in group] for group in found] == [["17", "near"]]
