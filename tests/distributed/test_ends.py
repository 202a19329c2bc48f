"""However one of two processes ends, both end, soon and with one status."""

import signal
from pathlib import Path

import jobs
import pytest

from jaxtag.errors import ProcessLostError

PROGRAM = str(Path(__file__).with_name("ending_job.py"))
LOST = ProcessLostError.exit_status
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("how", "status", "messages"),
    [
        pytest.param("done", 0, ("2 processes (found by flags)", ""), marks=SLOW),
        ("fails", 1, ("error: process 1 failed: the disk is full", "error: the disk is full")),
        pytest.param(
            "breaks", 70, ("process 1 failed: Traceback", "KeyError: 'a bug'"), marks=SLOW
        ),
        pytest.param("exits", 3, ("process 1 failed: Traceback", "SystemExit: 3"), marks=SLOW),
        pytest.param("both", 1, ("disk 0 is full", "disk 1 is full"), marks=SLOW),
        ("mistake", 2, ("config.steps = -1", "config.steps = -1")),
        ("hangs", LOST, ("nothing has moved for 1 s", "process 0 failed: nothing has moved")),
    ],
)
def test_both_end_alike(how, status, messages):
    job = jobs.start(PROGRAM, how, devices=2)
    assert job.wait() == [status, status], job.errors
    for stderr, message in zip(job.errors, messages, strict=True):
        assert message in stderr


def test_a_process_whose_coordinator_is_lost_aborts_without_walking_its_threads():
    """Walking the stacks of running threads ends in a segmentation fault now and then."""
    job = jobs.start(PROGRAM, "lost", devices=2)
    assert job.wait() == [-signal.SIGKILL, -signal.SIGABRT], job.errors
    assert "Fatal Python error: Aborted" in job.errors[1]
    assert "Thread 0x" not in job.errors[1]
