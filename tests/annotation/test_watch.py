"""annotate --watch: a new file is read when it is complete, and not before."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calling import call
from PIL import Image

from jaxtag.annotation.watch import Watcher, is_open_for_writing


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_file_is_complete_when_it_has_not_changed_for_a_while(tmp_path, clock):
    file, watcher = tmp_path / "a.jpg", Watcher(clock)
    names = [str(file), str(tmp_path / "gone.jpg")]
    assert watcher.complete(names) == []
    file.write_bytes(b"ha")
    assert watcher.complete(names) == []
    clock.now += 1.4
    assert watcher.complete(names) == []
    file.write_bytes(b"half")
    clock.now += 1.4
    assert watcher.complete(names) == []
    clock.now += 1.6
    assert watcher.complete(names) == [str(file)]
    assert watcher.is_final(str(file), is_decoded=True)


def test_a_file_that_changes_while_it_is_read_comes_again(tmp_path, clock):
    file, watcher = tmp_path / "a.jpg", Watcher(clock)
    file.write_bytes(b"half")
    watcher.complete([str(file)])
    clock.now += 2
    assert watcher.complete([str(file)]) == [str(file)]
    file.write_bytes(b"whole")
    assert not watcher.is_final(str(file), is_decoded=True)
    assert watcher.complete([str(file)]) == []
    clock.now += 2
    assert watcher.complete([str(file)]) == [str(file)]
    assert watcher.is_final(str(file), is_decoded=True)


def test_a_damaged_file_counts_as_one_after_a_minute(tmp_path, clock):
    file, watcher = tmp_path / "a.jpg", Watcher(clock)
    file.write_bytes(b"a copy that stalled")
    results = []
    for _ in range(75):
        results += [watcher.is_final(name, False) for name in watcher.complete([str(file)])]
        clock.now += 1
        if results[-1:] == [True]:
            break
    assert results == [False] * 12 + [True]
    assert 160 < clock.now < 165


def test_a_file_that_is_open_for_writing_is_not_complete(tmp_path, clock):
    file = tmp_path / "a.jpg"
    with Watcher(clock) as watcher, file.open("wb") as writer:
        writer.write(b"half")
        writer.flush()
        if not is_open_for_writing(str(file)):
            pytest.skip("the disk of the temporary folder knows no leases")
        for _ in range(3):
            assert watcher.complete([str(file)]) == []
            clock.now += 100
        writer.close()
        assert watcher.complete([str(file)]) == [str(file)]
    assert not is_open_for_writing(str(file)) and not is_open_for_writing(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--csv={tmp}/t.csv"], "--watch has no --csv"),
        (["--processes=2"], "--watch works in one process"),
        (["{tmp}/absent"], "--watch: there is no {tmp}/absent"),
    ],
)
def test_wrong_use_of_watch(tiny_run, tmp_path, flags, message):
    arguments = [flag.format(tmp=tmp_path) for flag in flags]
    output = tmp_path / "o"
    done = call(
        "annotate", "--watch", f"--workdir={tiny_run}", f"--output={output}", tmp_path, *arguments
    )
    assert (done.status, done.out) == (2, "")
    assert message.format(tmp=tmp_path) in done.err and done.err.count("\n") == 1


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()]


def wait_for(condition, seconds: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.mark.slow
def test_a_real_folder(tiny_run, tmp_path):
    """Files that are written slowly, moved in, damaged; stopped, started again."""
    album, output = tmp_path / "album", tmp_path / "out.jsonl"
    album.mkdir()
    Image.effect_noise((200, 200), 50).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (album / "old.jpg").write_bytes(content)
    command = [sys.executable, "-m", "jaxtag.annotate", "--watch", f"--workdir={tiny_run}"]
    command += [f"--output={output}", os.fspath(album)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}

    def start() -> subprocess.Popen:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("watching"):
                return process
        raise AssertionError(said)

    process = start()
    delays = [wait_for(lambda: len(lines(output)) == 1, 60)]
    for number in range(5):
        with (album / f"slow{number}.jpg").open("wb") as file:
            for first in range(0, len(content), len(content) // 4):
                file.write(content[first : first + len(content) // 4])
                file.flush()
                time.sleep(0.7 * number)
            assert len(lines(output)) == 1 + 2 * number
        delays.append(wait_for(lambda n=number: len(lines(output)) == 2 + 2 * n, 5))
        os.link(tmp_path / "a.jpg", album / f"moved{number}.jpg")
        delays.append(wait_for(lambda n=number: len(lines(output)) == 3 + 2 * n, 5))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    with output.open("a") as file:
        file.write('{"file": "cut')
    (album / "meanwhile.jpg").write_bytes(content)
    process = start()
    delays.append(wait_for(lambda: len(lines(output)) == 12, 60))
    process.kill()
    process.wait()
    rows = lines(output)
    assert len({row["file"] for row in rows}) == 12 and not any("error" in row for row in rows)
    print("seconds from the last write to the line:", [round(delay, 1) for delay in delays])
