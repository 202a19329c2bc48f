"""Pictures from files, folders and patterns: their order, and what is wrong with each."""

import io
import os
from collections import Counter

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from jaxtag.data.decode import decode
from jaxtag.data.files import ImageSource, describe_left_out, list_files
from jaxtag.data.image_reader import DecodeError
from jaxtag.data.pipeline import image_batches
from jaxtag.data.transforms import CenterCrop, Resize
from jaxtag.errors import UserError

SIZE = 16


def test_files_of_every_kind_keep_their_order_and_their_errors(tmp_path):
    good = simplejpeg.encode_jpeg(np.full((20, 30, 3), 200, np.uint8))
    folder = tmp_path / "some pictures"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".hidden").write_bytes(good)
    content = {
        "a.jpg": good,
        "b 'ü 🐶.jpeg": good,
        "c": good,
        "d.jpg": good[:100],
        "e.bmp": b"hello",
        "readme.txt": b"no picture, and not reported as one",
        "f.png": b"",
        "deeper/g.jpg": good,
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.jpg")
    missing = tmp_path / "missing.jpg"
    paths = [missing, folder, folder / "a.jpg", tmp_path / "*" / "deeper" / "*.jpg"]
    batches = list(image_batches(list_files(paths), image=Resize(SIZE), batch_size=4))
    names = [name for batch in batches for name in batch["file"]]
    errors = dict(zip(names, (e for batch in batches for e in batch["error"]), strict=True))
    expected = [
        missing,
        *(
            folder / n
            for n in (
                "a.jpg",
                "b 'ü 🐶.jpeg",
                "c",
                "d.jpg",
                "e.bmp",
                "f.png",
                "pipe.jpg",
                "deeper/g.jpg",
            )
        ),
    ]
    assert [name for name in names if name] == [str(path) for path in expected]
    failed = {os.path.basename(name) for name, error in errors.items() if error}
    assert failed == {"missing.jpg", "d.jpg", "e.bmp", "f.png", "pipe.jpg"}
    assert "No such file" in errors[str(missing)]
    index = np.concatenate([batch["index"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    assert len(index) == 12
    assert mask.sum() == 4
    assert (batches[0]["image"][1] == 200).all()


def test_files_through_workers(tmp_path):
    for number in range(7):
        pixels = np.full((20, 20, 3), number * 30, np.uint8)
        (tmp_path / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    batches = list(
        image_batches(list_files([tmp_path]), image=Resize(SIZE), batch_size=2, num_workers=2)
    )
    shades = np.concatenate([batch["image"][:, 8, 8, 0] for batch in batches])[:7]
    assert np.abs(shades - np.arange(7) * 30.0).max() < 3


def test_no_files_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no files in"):
        list_files([tmp_path, tmp_path / "*.jpg"])


def test_nothing_that_was_named_is_left_out_in_silence(tmp_path, monkeypatch):
    """A pattern without a match, a missing path, a closed folder: each leaves a record."""
    picture, closed = tmp_path / "a.png", tmp_path / "closed"
    picture.write_bytes(b"x")
    closed.mkdir()
    listed = os.scandir

    def scandir(folder):
        if os.fspath(folder) == os.fspath(closed):
            raise PermissionError(13, "Permission denied", os.fspath(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    pattern, missing = tmp_path / "*.jpg", tmp_path / "missing.png"
    names = list_files([pattern, tmp_path, missing])
    assert names == [os.fspath(path) for path in (pattern, picture, closed, missing)]
    errors = [record["error"] for record in ImageSource(names).__getitems__(range(4))]
    assert errors[1] is None
    assert "No such file" in errors[0] and "No such file" in errors[3]
    assert errors[2] == "a folder that cannot be listed"


def test_links_to_folders_are_followed_and_end(tmp_path):
    album, pool = tmp_path / "album", tmp_path / "pool"
    (album / "deep").mkdir(parents=True)
    pool.mkdir()
    for path in (album / "a.jpg", pool / "b.jpg"):
        path.touch()
    (album / "2023").symlink_to(pool)
    (album / "deep" / "up").symlink_to(album)
    (pool / "self").symlink_to(pool)
    (album / "c.jpg").symlink_to(pool / "b.jpg")
    names = [os.path.relpath(name, album) for name in list_files([album])]
    assert names == ["a.jpg", "c.jpg", "2023/b.jpg"]
    pool.joinpath("album").symlink_to(album)  # each leads to the other
    assert len(list_files([album])) < 50


def test_what_systems_and_programs_leave_in_folders_is_no_picture(tmp_path):
    pictures = ["IMG_1.HEIC", "a.jpg", "b", "thumbs/c.png", "d.jpg.bak"]
    system = ["@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "__MACOSX/._a.jpg", "._a.jpg", "Thumbs.db"]
    system += ["$RECYCLE.BIN/x.jpg", ".thumbnails/x.jpg", "desktop.ini", "#recycle/x.png"]
    system += ["SYNOFILE_THUMB_M.jpg", ".picasa.ini", "Icon\r", ".ipynb_checkpoints/a.jpg"]
    others = ["a.jpg.json", "b.jpg.JSON", "a.jpg.xmp", "IMG.MOV", "IMG_1.AAE", "o.jsonl"]
    for name in [*pictures, *system, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    left_out = Counter()
    names = [os.path.relpath(name, tmp_path) for name in list_files([tmp_path], left_out)]
    assert sorted(names) == sorted(pictures)
    assert left_out == {".json": 2, ".xmp": 1, ".mov": 1, ".aae": 1, ".jsonl": 1}
    assert describe_left_out(left_out).startswith("6 file(s) that are no pictures (2 .json, 1 ")
    # What is named itself is meant.
    thumbnail = tmp_path / "@eaDir" / "a.jpg"
    assert len(list_files([tmp_path / "IMG.MOV", thumbnail / "SYNOPHOTO_THUMB_XL.jpg"])) == 2
    with pytest.raises(UserError, match=r"no files in .* but 1 file\(s\) that are no pictures"):
        (tmp_path / "films").mkdir()
        (tmp_path / "films" / "a.mp4").touch()
        list_files([tmp_path / "films"])


def test_damage_below_a_crop_is_found():
    """`prepare` refuses such an image; so does whatever reads files as they are."""
    noise = np.random.default_rng(0).integers(0, 255, (600, 80, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    data = buffer.getvalue()
    damaged = data[: int(0.9 * len(data))] + b"\xff\xd9"
    with pytest.raises(DecodeError):
        decode(damaged)
    batches = image_batches([data, damaged], image=CenterCrop(SIZE), batch_size=2)
    errors = next(batches)["error"]
    batches.close()
    assert errors[0] == "" and "damaged" in errors[1]
