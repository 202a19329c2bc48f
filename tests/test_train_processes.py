"""`jaxtag.train` as several processes: the run of one; killed, told to stop, gone on by others."""

import json
import signal
import time
from pathlib import Path

import jobs
import pytest

from jaxtag.errors import ProcessLostError
from jaxtag.training.preemption import RESTART_STATUS

STEPS = 20
NOTICED = 60  # seconds in which the others notice that one is gone
RHYTHM = [
    "--config.log_every=1",
    "--config.checkpoint_every=2",
    "--config.data.crop_scale=(0.5,1.0)",
]


def start(
    config: str, workdir: Path, processes: int, *more: str, steps=STEPS, devices=jobs.DEVICES
):
    flags = [f"--config={config}", f"--workdir={workdir}", *RHYTHM, *more]
    flags += [f"--config.total_steps={steps}", f"--config.evaluate_every={steps}"]
    return jobs.start("train", *flags, processes=processes, devices=devices)


def finish(*arguments, **options) -> list[str]:
    job = start(*arguments, **options)
    assert job.wait() == [0] * len(job.processes), job.errors
    return job.errors


@pytest.fixture(scope="module")
def alone(own_config, tmp_path_factory) -> Path:
    """The run of one process with 4 devices."""
    workdir = tmp_path_factory.mktemp("alone")
    finish(own_config, workdir, 1)
    return workdir


def results(workdir: Path) -> dict:
    return json.loads((workdir / "results.json").read_text())["model"]


def assert_ended_to_start_again(job: jobs.Job, but: int) -> None:
    """All processes but one that was killed have ended by themselves, and soon."""
    began = time.monotonic()
    statuses = job.wait(NOTICED)
    assert time.monotonic() - began < NOTICED
    del statuses[but]
    for status in statuses:
        assert status in (ProcessLostError.exit_status, -signal.SIGABRT), job.errors


def until_saved(job: jobs.Job, workdir: Path) -> None:
    """Until a checkpoint is complete, which is written beside the steps."""
    began = time.monotonic()
    while not any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*")):
        running = all(process.poll() is None for process in job.processes)
        if not running or time.monotonic() - began > NOTICED:
            job.kill(0, 1, number=signal.SIGABRT)  # what hangs prints its stacks
            statuses = job.wait(NOTICED)
            pytest.fail(f"no checkpoint; statuses {statuses}:\n" + "\n".join(job.errors))
        time.sleep(0.02)


def test_one_of_two_is_killed_and_one_goes_on_alone(own_config, alone, tmp_path):
    job = start(own_config, tmp_path, 2)
    job.until(0, "step 4/")
    until_saved(job, tmp_path)
    job.kill(1)
    assert_ended_to_start_again(job, but=1)
    (errors,) = finish(own_config, tmp_path, 1)
    assert "going on from step" in errors
    jobs.assert_same_losses(tmp_path, alone)
    assert results(tmp_path)["perplexity"] == pytest.approx(results(alone)["perplexity"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_gives_the_losses_of_one(own_config, alone, tmp_path, processes):
    errors = finish(own_config, tmp_path, processes)
    assert f"{processes} processes (found by flags)" in errors[0]
    assert not any("processes (found by" in other for other in errors[1:])
    jobs.assert_same_losses(tmp_path, alone)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {path.name for path in alone.iterdir()}


@pytest.mark.slow
def test_saved_with_four_it_goes_on_with_two_and_then_eight(own_config, tmp_path):
    single, parts = tmp_path / "single", tmp_path / "parts"
    finish(own_config, single, 1, devices=8)
    for processes in (4, 2):
        job = start(own_config, parts, processes, devices=8)
        job.until(0, "step ")
        job.kill(0, number=signal.SIGTERM)
        assert job.wait() == [RESTART_STATUS] * processes, job.errors
    errors = finish(own_config, parts, 8, devices=8)
    assert "going on from step" in errors[0]
    jobs.assert_same_losses(parts, single)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "signaled"), [(2, [1]), (4, [2]), (4, [0, 1, 2, 3])])
def test_told_to_stop_all_save_one_step(own_config, alone, tmp_path, processes, signaled):
    job = start(own_config, tmp_path, processes, "--config.checkpoint_every=1000")
    job.until(0, "step 2/")
    job.kill(*signaled, number=signal.SIGTERM)
    assert job.wait() == [RESTART_STATUS] * processes, job.errors
    saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert len(saved) == 1 and 2 <= saved[0] < STEPS
    errors = finish(own_config, tmp_path, processes)
    assert f"going on from step {saved[0]}" in errors[0]
    jobs.assert_same_losses(tmp_path, alone)


@pytest.mark.slow
def test_one_that_stands_still_is_noticed(own_config, tmp_path):
    job = start(own_config, tmp_path, 2, steps=100000)
    job.until(0, "step 4/")
    job.kill(1, number=signal.SIGSTOP)
    began = time.monotonic()
    job.processes[0].communicate(timeout=NOTICED)
    assert time.monotonic() - began < NOTICED
    assert job.processes[0].returncode in (ProcessLostError.exit_status, -signal.SIGABRT)
    job.kill(1)
