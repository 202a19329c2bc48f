"""annotate as a job of several processes: the lines of one, in a file each, put together."""

import json
import tarfile
from pathlib import Path

import jobs
import numpy as np
import pytest
import simplejpeg
from calling import call

from jaxtag.annotation import shards
from jaxtag.data.files import ImageSource
from jaxtag.data.stored_images import list_tar
from jaxtag.errors import UserError


def write_rows(path: Path, *names: str) -> None:
    path.write_text("".join(json.dumps({"file": name}) + "\n" for name in names))


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_stretches_hold_each_image_once_in_order(count, monkeypatch):
    names = [f"{number}.jpg" for number in range(21)]
    parts = [shards.own_stretch(names, index, count) for index in range(count)]
    assert [name for part in parts for name in part] == names
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_are_merged_in_order_with_a_table(tmp_path):
    output = tmp_path / "out.jsonl"
    write_rows(shards.shard_path(output, 1, 2), "c.jpg")
    write_rows(shards.shard_path(output, 0, 2), "a.jpg", "b.jpg")
    write_rows(tmp_path / "out-more-00000-of-00009.jsonl", "another output's")
    done = call("annotate", "--merge", f"--output={output}", f"--csv={tmp_path / 'out.csv'}")
    assert (done.status, done.out) == (0, f"3 lines merged: {output}\n")
    rows = [json.loads(line)["file"] for line in output.read_text().splitlines()]
    assert rows == ["a.jpg", "b.jpg", "c.jpg"]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


def test_what_cannot_be_merged_is_named(tmp_path):
    output = tmp_path / "out.jsonl"
    done = call("annotate", "--merge", f"--output={output}")
    assert done.status == 1 and "there is no out-*-of-*.jsonl beside" in done.err
    write_rows(shards.shard_path(output, 0, 3), "a.jpg")
    with pytest.raises(UserError, match=r"2 of 3 files are missing, such as .*out-00001-of-00003"):
        list(shards.merged_rows(output))
    write_rows(shards.shard_path(output, 0, 2), "a.jpg")
    with pytest.raises(UserError, match="jobs of 2 and 3 processes"):
        list(shards.merged_rows(output))


@pytest.fixture
def tar(tmp_path) -> Path:
    path = tmp_path / "shard-000.tar"
    for number in range(3):
        pixels = np.full((20, 20, 3), 80 * number, np.uint8)
        (tmp_path / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
        (tmp_path / f"{number}.json").write_text("{}")
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            for suffix in ("jpg", "json"):
                archive.add(tmp_path / f"{number}.{suffix}", f"folder/{number}.{suffix}")
    return path


def test_members_of_a_tar_are_images(tar, tmp_path):
    images = list(list_tar(str(tar)))
    assert [image.file for image in images] == [f"{tar}/folder/{n}.jpg" for n in range(3)]
    records = ImageSource(images).__getitems__([2, 0])
    assert [record["image"] for record in records] == [
        (tmp_path / f"{number}.jpg").read_bytes() for number in (2, 0)
    ]
    tar.write_bytes(tar.read_bytes()[: images[2].key[0] + 10])
    (record,) = ImageSource(images).__getitems__([2])
    assert record["error"] == "the archive is cut off"


def test_a_compressed_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"a\.tar cannot be read as a tar without compression"):
        list(list_tar(str(tmp_path / "a.tar")))


def test_images_of_tars_lists_and_data_sets(tiny_run, tiny_data, tar, tmp_path):
    output = tmp_path / "out.jsonl"

    def annotated(*flags):
        done = call("annotate", f"--workdir={tiny_run}", f"--output={output}", *flags)
        assert done.status == 0, done.err
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        return {row["file"]: row.get("caption", row.get("error")) for row in rows}

    in_tar = annotated(tar)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path / f'{n}.jpg'}\n" for n in range(3)))
    in_list = annotated(f"--files_from={tmp_path / 'list.txt'}")
    assert list(in_tar.values()) == list(in_list.values())
    assert list(in_list) == [str(tmp_path / f"{number}.jpg") for number in range(3)]
    in_set = annotated("--dataset=tiny", "--split=test", f"--data_dir={tiny_data}")
    assert sorted(in_set) == [f"tiny/test/{number}.jpg" for number in range(24, 28)]
    done = call("annotate", f"--workdir={tiny_run}", f"--output={output}", "--dataset=tiny", tar)
    assert done.status == 2


def test_two_processes_write_a_file_each_and_go_on(tiny_run, album, unbroken, tmp_path):
    output = tmp_path / "out.jsonl"
    flags = [f"--workdir={tiny_run}", f"--output={output}", album]
    job = jobs.start("annotate", *flags, devices=2)
    assert job.wait() == [0, 0], job.errors
    paths = [shards.shard_path(output, index, 2) for index in range(2)]
    first = paths[0].stat().st_mtime_ns
    paths[1].unlink()  # as if only one had come to its end
    job = jobs.start("annotate", *flags, devices=2)
    assert job.wait() == [0, 0], job.errors
    assert f"{paths[0]} is complete" in job.errors[0]
    assert paths[0].stat().st_mtime_ns == first
    assert call("annotate", "--merge", f"--output={output}").status == 0
    rows, expected = (
        [json.loads(line) for line in text.splitlines()] for text in (output.read_text(), unbroken)
    )
    for row, other in zip(rows, expected, strict=True):
        assert row.get("caption") == other.get("caption") and row["file"] == other["file"]
