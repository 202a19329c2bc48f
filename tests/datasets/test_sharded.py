"""Data sets prepared in shards: any size, resumable, by one process or by Apache Beam's workers."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
from calling import call

from jaxtag import datasets
from jaxtag.datasets.sharded import prepare, shards, worklists
from jaxtag.errors import UsageError, UserError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """30 images with tags, of which one is damaged and one missing, and lines that are none."""
    folder = tmp_path_factory.mktemp("sharded_source")
    lines = []
    for number in range(30):
        pixels = np.full((8, 8, 3), 8 * number, np.uint8)
        (folder / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
        split = ["train", "train", "test"][number % 3]
        tags = ["sea", "sky", "sun"][: number % 4]
        lines.append(json.dumps({"file": f"{number}.jpg", "tags": tags, "split": split}))
    (folder / "4.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "5.jpg").unlink()
    lines += ["{", '{"file": "1.jpg", "label": "a"}', '{"tags": ["sea"]}', lines[0], ""]
    (folder / "tags.jsonl").write_text("\n".join(lines))
    return folder


def contents(data_dir, split):
    opened = datasets.open_split("own", split, data_dir)
    names = opened.class_names("tags")
    records = opened.__getitems__(range(len(opened)))
    assert list(opened.iter_fields(["file", "tags"])) == [
        {"file": record["file"], "tags": record["tags"]} for record in records
    ]
    return {r["file"]: (r["image"], [names[tag] for tag in r["tags"]]) for r in records}


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("sharded_data")
    return data_dir, prepare.prepare_in_shards("own", source / "tags.jsonl", data_dir, 3)


def test_all_sound_images_are_there_once(source, whole):
    data_dir, summary = whole
    train, test = contents(data_dir, "train"), contents(data_dir, "test")
    expected = {n: f"{n}.jpg" for n in range(30) if n not in (4, 5)}
    assert sorted(train) == sorted(name for n, name in expected.items() if n % 3 < 2)
    assert sorted(test) == sorted(name for n, name in expected.items() if n % 3 == 2)
    for name, (image, tags) in {**train, **test}.items():
        assert tags == ["sea", "sky", "sun"][: int(name.removesuffix(".jpg")) % 4]
        assert simplejpeg.decode_jpeg(image)[0, 0, 0] == pytest.approx(8 * int(name[:-4]), abs=3)
    assert list(train) != sorted(train, key=lambda name: int(name[:-4]))
    assert summary.splits["train"]["pictures"] == 19 and summary.damaged == 2
    ledger = (data_dir / "own/1.0.0/ledger.jsonl").read_text().splitlines()
    reasons = {entry["file"]: entry["reason"] for entry in map(json.loads, ledger)}
    assert reasons["5.jpg"] == "the image is missing"
    assert sorted(reasons) == ["4.jpg", "5.jpg", "tags.jsonl:31", "tags.jsonl:32", "tags.jsonl:33"]
    assert [path.name for path in (data_dir / "own").iterdir() if path.is_dir()] == ["1.0.0"]
    assert prepare.prepare_in_shards("own", source / "tags.jsonl", data_dir, 3).already


def test_what_was_stopped_goes_on(source, whole, tmp_path, monkeypatch):
    write = shards.write_shards

    def write_some(plan, shard, **options):
        if shard == 2:
            raise KeyboardInterrupt
        write(plan, shard, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards, "write_shards", write_some)
        prepare.prepare_in_shards("own", source / "tags.jsonl", tmp_path, 3)
    data = tmp_path / "own/.shards/data/own/1.0.0"
    times = {path.name: path.stat().st_mtime_ns for path in data.glob("own-*")}
    assert len(times) == 4 and not (tmp_path / "own/1.0.0").exists()
    prepare.prepare_in_shards("own", source / "tags.jsonl", tmp_path, 3)
    for name, time in times.items():
        assert (tmp_path / "own/1.0.0" / name).stat().st_mtime_ns == time
    for split in ("train", "test"):
        assert list(contents(tmp_path, split)) == list(contents(whole[0], split))


def test_another_table_begins_anew(source, tmp_path):
    copy = tmp_path / "tags.jsonl"
    shutil.copy(source / "tags.jsonl", copy)
    plan = worklists.make_plan("own", copy, tmp_path / "plan", 2)
    (tmp_path / "plan/mark").touch()
    assert worklists.make_plan("own", copy, tmp_path / "plan", 2) == plan
    assert (tmp_path / "plan/mark").exists()
    copy.write_text('{"file": "a.jpg", "caption": "a field"}\n')
    plan = worklists.make_plan("own", copy, tmp_path / "plan", 2)
    assert plan.kind == "captions" and not (tmp_path / "plan/mark").exists()
    lists = [plan.worklist(shard) for shard in range(2)]
    assert [entry["captions"] for entries in lists for entry in entries] == [["a field"]]


def test_mistakes_are_one_line(source, tmp_path):
    with pytest.raises(UserError, match=r"absent\.jsonl: No such file"):
        prepare.prepare_in_shards("own", source / "absent.jsonl", tmp_path, 2)
    (tmp_path / "empty.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="no line can be used"):
        prepare.prepare_in_shards("own", tmp_path / "empty.jsonl", tmp_path, 2)
    with pytest.raises(UsageError, match="--num_shards is for own data"):
        prepare.prepare_in_shards("mnist", source / "tags.jsonl", tmp_path, 2)


def test_the_command(source, tmp_path):
    done = call(
        "prepare", "--dataset=own", f"--source={source / 'tags.jsonl'}", f"--data_dir={tmp_path}",
        "--num_shards=2", "--workers=1",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "19 images" in done.out and (tmp_path / "own/1.0.0/examples.png").exists()


_BEAM = """
import sys
from pathlib import Path
from jaxtag.datasets.sharded.prepare import prepare_in_shards
options = ["--runner=DirectRunner", "--direct_num_workers=2"]
options += ["--direct_running_mode=multi_processing"]
table, data_dir = map(Path, sys.argv[1:])
print(prepare_in_shards("own", table, data_dir, 3, beam_options=options))
"""


def test_workers_of_apache_beam_write_the_same(source, whole, tmp_path):
    pytest.importorskip("apache_beam")
    done = subprocess.run(
        [sys.executable, "-c", _BEAM, source / "tags.jsonl", tmp_path],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for split in ("train", "test"):
        assert contents(tmp_path, split) == contents(whole[0], split)


def test_beam_is_asked_for_where_it_is_missing(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UsageError, match=r"pip install 'jaxtag\[beam\]'"):
        prepare.prepare_in_shards("own", source / "tags.jsonl", tmp_path, 2, beam_options=[])
