"""annotate goes on where it was stopped, alone and as several processes: the same lines."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from calling import call
from PIL import Image

from jaxtag.annotation.names import read_names
from jaxtag.annotation.processes import AnnotatorProcesses
from jaxtag.errors import UserError
from jaxtag.inference.writers import JsonlWriter

NUM_IMAGES = 21  # of the fixture `album`


class Stopped(BaseException):
    """A run that ends at once, as by a signal."""


def stop_after(num_lines: int, monkeypatch) -> None:
    write, count = JsonlWriter.write, iter(range(num_lines))

    def counted(self, row):
        if next(count, None) is None:
            raise Stopped
        write(self, row)

    monkeypatch.setattr(JsonlWriter, "write", counted)


def annotate(run, album, output, *flags):
    return call("annotate", f"--workdir={run}", f"--output={output}", *flags, album)


def test_a_stopped_run_goes_on_where_it_was(tiny_run, album, unbroken, tmp_path, monkeypatch):
    output, table = tmp_path / "out.jsonl", tmp_path / "table.csv"
    for num_lines in (3, 9):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            stop_after(num_lines, patch)
            annotate(tiny_run, album, output)
    (partial,) = tmp_path.glob("out.jsonl.*.partial")
    with partial.open("ab") as file:
        file.write(b'{"file": "damaged\n\0\0\0\n{"file": "cut')
    assert len(partial.read_text().splitlines()) == 15
    with monkeypatch.context() as patch:
        stop_after(NUM_IMAGES - 12, patch)  # what is there is not written again
        done = annotate(tiny_run, album, output, f"--csv={table}")
    assert done.status == 0 and "12 lines of a stopped run are kept" in done.err
    assert "20 pictures annotated, 1 could not be read" in done.out
    assert output.read_text() == unbroken
    assert len(table.read_text().splitlines()) == NUM_IMAGES + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "table.csv"]


def test_files_that_came_and_went_meanwhile(tiny_run, album, unbroken, tmp_path, monkeypatch):
    copy, output = tmp_path / "album", tmp_path / "out.jsonl"
    copy.symlink_to(album)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(10, patch)
        annotate(tiny_run, album / "0", output)
    names = [album / "1" / "20.png", *sorted((album / "0").iterdir())[4:14]]
    done = call("annotate", f"--workdir={tiny_run}", f"--output={output}", *names)
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["file"] for line in lines] == list(map(str, names))
    captions = {row["file"]: row.get("caption") for row in map(json.loads, unbroken.splitlines())}
    assert all(line.get("caption") == captions[line["file"]] for line in lines)


def test_lines_of_other_settings_are_neither_mixed_nor_lost(
    tiny_run, album, unbroken, tmp_path, monkeypatch
):
    output = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(5, patch)
        annotate(tiny_run, album, output)
    (partial,) = tmp_path.glob("*.partial")
    lines = partial.read_text()
    done = annotate(tiny_run, album, output, "--top_k=3")
    assert (done.status, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert f"{partial} has 5 lines of a run with other settings: --top_k was not given" in done.err
    assert partial.read_text() == lines
    partial.unlink()
    assert annotate(tiny_run, album, output).status == 0
    assert output.read_text() == unbroken


def test_two_processes_write_the_lines_of_one(tiny_run, album, unbroken, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(9, patch)
        annotate(tiny_run, album, output)
    done = annotate(tiny_run, album, output, "--processes=2")
    assert done.status == 0, done.err
    assert "9 lines of a stopped run are kept" in done.err
    assert output.read_text() == unbroken


def test_what_goes_wrong_in_a_process_is_told():
    with pytest.raises(UserError, match=r"^process 0 of --processes=1 ended with exit status 9"):
        AnnotatorProcesses(functools.partial(os._exit, 9), 1)
    with pytest.raises(UserError, match=r"^--names=absent\.csv cannot be read"):
        AnnotatorProcesses(functools.partial(read_names, Path("absent.csv")), 1)


def test_everything_besides(tiny_run, album, tmp_path):
    """Keywords in the images, sidecars, groups, a gallery: of a captioner."""
    copy, folder = tmp_path / "album", tmp_path / "gallery"
    shutil.copytree(album, copy)
    shutil.copy(copy / "0" / "00.png", copy / "copy.png")
    flags = ["--embed", "--sidecars=immich", f"--duplicates={tmp_path}/twice.csv"]
    (tmp_path / "names.csv").write_text("tag,name\ndog,Hund\n")
    flags += [f"--gallery={folder}", f"--names={tmp_path}/names.csv"]
    output = tmp_path / "out.jsonl"
    pixels = [Image.open(path).tobytes() for path in sorted(copy.glob("1/*.png"))]
    for _ in range(2):
        done = annotate(tiny_run, copy, output, *flags)
        assert done.status == 0, done.err
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        assert len(rows) == NUM_IMAGES + 1
    assert [Image.open(path).tobytes() for path in sorted(copy.glob("1/*.png"))] == pixels
    captioned = [row for row in rows if "caption" in row]
    for row in captioned:
        for path in (Path(row["file"]), Path(f"{row['file']}.xmp")):
            assert row["caption"].encode() in path.read_bytes()
        assert Path(f"{row['file']}_original").exists()
    table = (tmp_path / "twice.csv").read_text()
    assert "copy.png,same " in table or "00.png,same " in table  # pixels, or bytes
    assert '"same ' in (folder / "pictures.js").read_text()


def small_images(folder: Path, count: int) -> None:
    """Small JPEGs: parts of real images where there are any, else noise."""
    real = sorted(Path(os.environ.get("JAXTAG_TEST_DATA", "/absent")).glob("coco_mini/*/*.jpg"))
    images = [Image.open(path).convert("RGB") for path in real] or [
        Image.effect_noise((400, 400), 90).convert("RGB")
    ]
    rng = np.random.RandomState(0)
    for number in range(count):
        image = images[number % len(images)]
        left, top = rng.randint(0, image.width - 96), rng.randint(0, image.height - 96)
        path = folder / f"{number // 500:03}" / f"{number:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        image.crop((left, top, left + 96, top + 96)).save(path, quality=80)


@pytest.mark.slow
def test_20000_images_and_ten_kills(tiny_run, tmp_path):
    """The lines of an unbroken run, whatever was killed, and memory that does not grow."""
    album = tmp_path / "album"
    album.mkdir()
    small_images(album, 20_000)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "jaxtag.annotate", f"--workdir={tiny_run}"]

    def num_lines(output: Path) -> int:
        partials = list(output.parent.glob(f"{output.name}.*.partial"))
        return sum(partial.read_bytes().count(b"\n") for partial in partials)

    def run(output: Path, *paths: Path, kill_at: int | None = None) -> tuple[int, float, int]:
        """(exit status, seconds, most memory in bytes)."""
        started, memory = time.monotonic(), 0
        arguments = [*command, f"--output={output}", *map(str, paths)]
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = re.search(r"VmHWM:\s+(\d+) kB", status)
            memory = max(memory, int(peak[1]) << 10 if peak else 0)
            if kill_at is not None and num_lines(output) >= kill_at:
                process.kill()
            time.sleep(0.05)
        return process.returncode, time.monotonic() - started, memory

    folders = sorted(album.iterdir())
    _, _, little = run(tmp_path / "2000.jsonl", *folders[:4])
    status, seconds, much = run(tmp_path / "unbroken.jsonl", *folders)
    assert status == 0
    rng, kept = np.random.RandomState(0), [0]
    for _ in range(10):
        run(tmp_path / "out.jsonl", *folders, kill_at=kept[-1] + rng.randint(1, 1900))
        kept.append(num_lines(tmp_path / "out.jsonl"))
    assert run(tmp_path / "out.jsonl", *folders)[0] == 0
    print(f"{seconds:.0f} s unbroken; lines after each kill: {kept}")
    print(f"memory: {little >> 20} MiB for 2,000, {much >> 20} MiB for 20,000")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 20_000
    assert kept == sorted(set(kept)) and much - little < 20 << 20
