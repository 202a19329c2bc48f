"""A run that is killed while it saves ends with the very bits of one that never was.

test_kill_train.py does it to the command itself, at any moment.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killable_run.py")
STEPS = 24


def start(directory: Path, workers: int) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    return subprocess.Popen(
        [sys.executable, PROGRAM, directory, str(workers), str(STEPS)],
        stdout=subprocess.PIPE,
        stderr=(directory / "errors").open("a"),
        text=True,
        env=environment,
        start_new_session=True,  # so that the workers die with it
    )


def finish(directory: Path, workers: int) -> bytes:
    process = start(directory, workers)
    process.communicate(timeout=120)
    assert process.returncode == 0, (directory / "errors").read_text()
    return (directory / "final").read_bytes()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> bytes:
    return finish(tmp_path_factory.mktemp("unbroken"), 0)


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_in_a_save(directory: Path, workers: int, after: int) -> int:
    """Kills while a step after `after` is being written; returns the step."""
    process = start(directory, workers)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for path in directory.glob("checkpoints/*.orbax-checkpoint-tmp"):
            step = int(path.name.split(".")[0])
            if step > after:
                kill(process)
                return step
        time.sleep(0.0002)
    kill(process)
    raise AssertionError("no save seen: " + (directory / "errors").read_text())


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_a_save(tmp_path, unbroken, workers):
    step = kill_in_a_save(tmp_path, workers, after=2)
    assert step < STEPS
    assert finish(tmp_path, workers) == unbroken
