"""The command: exit status, one clear line, and never half a data set."""

import errno
import fcntl
import json
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from jaxtag import datasets
from jaxtag.datasets import shapes, write
from jaxtag.errors import UserError


def prepare(*args):
    command = [sys.executable, "-m", "jaxtag.prepare", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def few_scenes(monkeypatch):
    monkeypatch.setattr(shapes, "SCENES", {"train": 12, "validation": 3, "test": 3})


def names_in(folder):
    """Names in the data set's folder, without the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_the_command_from_start_to_end(tmp_path):
    first = prepare("--dataset=shapes_captions", f"--data_dir={tmp_path}")
    assert (first.returncode, first.stderr) == (0, "")
    assert "6,000 images" in first.stdout
    assert f"prepared in {tmp_path}/shapes_captions/1.0.0" in first.stdout
    stored = json.loads((tmp_path / "shapes_captions/1.0.0/summary.json").read_text())
    assert stored["splits"]["test"] == {"pictures": 500, "captions": 2500}
    assert (tmp_path / "shapes_captions/1.0.0/examples.png").read_bytes().startswith(b"\x89PNG")
    again = prepare("--dataset=shapes_captions", f"--data_dir={tmp_path}")
    assert again.returncode == 0
    assert "prepared already" in again.stdout


def test_help_and_wrong_use(tmp_path):
    done = prepare("--help")
    assert done.returncode == 0
    for flag in ("dataset", "source", "data_dir", "overwrite", "keep_exif", "workers"):
        assert f"{flag}:" in done.stdout
    cases = [
        (["--nonsense=1"], 2),
        ([], 2),
        (["--dataset=coco_captions"], 2),
        (["--dataset=coco_captions", f"--source={tmp_path}/none"], 1),
    ]
    for args, status in cases:
        failed = prepare(*args, f"--data_dir={tmp_path}/d")
        assert failed.returncode == status, failed.stderr
        assert failed.stderr.startswith("error: ")
        assert "Traceback" not in failed.stderr
    assert not (tmp_path / "d").exists()


def test_overwrite_replaces_when_the_new_one_is_whole(tmp_path, few_scenes, monkeypatch):
    datasets.prepare("shapes_captions", None, tmp_path)
    monkeypatch.setattr(shapes, "SCENES", {"train": 5})
    assert datasets.prepare("shapes_captions", None, tmp_path).already
    summary = datasets.prepare("shapes_captions", None, tmp_path, overwrite=True)
    assert not summary.already
    assert datasets.Summary.load(summary.folder).splits == {
        "train": {"pictures": 5, "captions": 25}
    }
    assert names_in(tmp_path / "shapes_captions") == ["1.0.0"]


@pytest.mark.parametrize("before", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, few_scenes, monkeypatch, before):
    if before:
        datasets.prepare("shapes_captions", None, tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write.Summary, "from_report", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        datasets.prepare("shapes_captions", None, tmp_path, overwrite=True)
    assert names_in(tmp_path / "shapes_captions") == (["1.0.0"] if before else [])


def test_a_file_of_the_source_that_cannot_be_read_is_named(tmp_path, few_scenes, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error", str(tmp_path / "own" / "a.jpg"))

    monkeypatch.setattr(write.Summary, "from_report", broken)
    with pytest.raises(UserError, match=r"own/a\.jpg: Input/output error$"):
        datasets.prepare("shapes_captions", None, tmp_path / "data")
    assert names_in(tmp_path / "data/shapes_captions") == []


def test_an_error_that_names_no_file_is_not_blamed_on_the_data_directory(
    tmp_path, few_scenes, monkeypatch
):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")  # as read() of an open file raises it

    monkeypatch.setattr(write.Summary, "from_report", broken)
    with pytest.raises(UserError, match=r"a disk fails, that of the source or of .*output error$"):
        datasets.prepare("shapes_captions", None, tmp_path / "data")
    assert names_in(tmp_path / "data/shapes_captions") == []


def test_a_disk_that_is_too_small_is_noticed_first(tmp_path, monkeypatch):
    source = tmp_path / "own"
    source.mkdir()
    (source / "c.csv").write_text("file,caption\na.jpg,x\n")
    (source / "a.jpg").write_bytes(bytes(1000))
    monkeypatch.setattr(write.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="make room"):
        datasets.prepare("mine", source, tmp_path / "d")
    assert names_in(tmp_path / "d/mine") == []


def test_an_unwritable_place_is_one_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    failed = prepare("--dataset=shapes_captions", f"--data_dir={tmp_path}/file")
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: {tmp_path}/file/shapes_captions cannot be written")


def test_what_a_killed_run_left_is_cleaned(tmp_path, few_scenes):
    folder = tmp_path / "shapes_captions"
    (folder / ".preparing-123/x").mkdir(parents=True)
    datasets.prepare("shapes_captions", None, tmp_path)
    assert names_in(folder) == ["1.0.0"]
    # Killed, or met by a fault, when the data set was in place.
    (folder / ".preparing-123/x").mkdir(parents=True)
    (folder / ".replaced-1.0.0").mkdir()
    assert datasets.prepare("shapes_captions", None, tmp_path).already
    assert names_in(folder) == ["1.0.0"]
    # Killed between the two renames of --overwrite: the old one comes back.
    (folder / "1.0.0").rename(folder / ".replaced-1.0.0")
    assert datasets.prepare("shapes_captions", None, tmp_path).already
    assert names_in(folder) == ["1.0.0"]


def test_killed_at_any_moment_no_half_data_set_appears(tmp_path):
    command = [sys.executable, "-m", "jaxtag.prepare", "--dataset=shapes_captions"]
    process = subprocess.Popen([*command, f"--data_dir={tmp_path}"], stdout=subprocess.DEVNULL)
    folder = tmp_path / "shapes_captions"
    until = time.monotonic() + 60
    while not list(folder.glob(".preparing-*/*")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "1.0.0").exists()
    assert list(folder.glob(".preparing-*"))


def test_two_at_once(tmp_path, few_scenes):
    folder = tmp_path / "shapes_captions"
    folder.mkdir()
    with open(folder / ".lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is preparing shapes_captions"):
            datasets.prepare("shapes_captions", None, tmp_path)
        threading.Timer(0.5, fcntl.flock, (other, fcntl.LOCK_UN)).start()
        summary = datasets.prepare("shapes_captions", None, tmp_path, wait_seconds=30)
    assert summary.splits["train"]["pictures"] == 12


def test_a_folder_of_another_kind_is_not_taken_for_prepared(tmp_path, few_scenes):
    (tmp_path / "shapes_captions/1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match="--overwrite replaces it"):
        datasets.prepare("shapes_captions", None, tmp_path)
    assert not datasets.prepare("shapes_captions", None, tmp_path, overwrite=True).already
