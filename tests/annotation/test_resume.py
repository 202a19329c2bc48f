"""annotate goes on where it was stopped, alone and as several processes: the same lines."""

import json
from pathlib import Path

import pytest
from calling import call
from PIL import Image

from jaxtag.inference.writers import JsonlWriter

NUM_IMAGES = 21


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """Small pictures of two folders, one of them damaged."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(NUM_IMAGES):
        path = folder / str(number // 16) / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (12 * number, 255 - 12 * number, 99)).save(path)
    (folder / "0" / "05.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def unbroken(tiny_run, album, tmp_path_factory) -> str:
    """The lines of a run that was never stopped."""
    output = tmp_path_factory.mktemp("unbroken") / "out.jsonl"
    assert call("annotate", f"--workdir={tiny_run}", f"--output={output}", album).status == 0
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]
    return output.read_text()


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
        file.write(b'{"file": "cut')
    assert len(partial.read_text().splitlines()) == 13
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


def test_a_mistake_in_a_process_is_one_line(tiny_run, album, tmp_path):
    output = tmp_path / "out.jsonl"
    done = annotate(tiny_run, album, output, "--processes=2", "--step=7")
    assert (done.status, done.out) == (1, "")
    assert "has no step 7" in done.err and done.err.count("\n") == 1
