"""`jaxtag.train` as several processes: the run of one; killed, told to stop, gone on by others."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import jobs
import numpy as np
import pytest

from jaxtag.config import schema as configuration
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.datasets import prepared
from jaxtag.errors import ProcessLostError
from jaxtag.tasks.caption.task import CaptionTask
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.preemption import RESTART_STATUS
from jaxtag.training.setup import TrainSetup

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


def until_saved(workdir: Path) -> None:
    """Until a checkpoint is complete, which is written beside the steps."""
    began = time.monotonic()
    while not any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*")):
        assert time.monotonic() - began < NOTICED
        time.sleep(0.02)


def test_one_of_two_is_killed_and_one_goes_on_alone(own_config, alone, tmp_path):
    job = start(own_config, tmp_path, 2)
    job.until(0, "step 4/")
    until_saved(tmp_path)
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


def arrays(workdir: Path) -> list[np.ndarray]:
    """All arrays of the last state."""
    used = configuration.load(workdir)
    source = prepared.open_split(used.data.dataset, used.data.train_split, used.data.data_dir)
    task = CaptionTask(used, Tokenizer.load(workdir / "tokenizer.json"))
    shapes = TrainSetup.from_config(used, task, len(source)).shapes
    restored = Checkpoints(workdir / "checkpoints", keep_last=2).restore(shapes)
    state = restored.state.replace(key=jax.random.key_data(restored.state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


STORM_STEPS = 40


@pytest.fixture(scope="module")
def unbroken(own_config, tmp_path_factory) -> Path:
    """The run of two processes with 4 devices, never killed."""
    workdir = tmp_path_factory.mktemp("unbroken")
    finish(own_config, workdir, 2, steps=STORM_STEPS)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_storm(own_config, unbroken, tmp_path, seed):
    """Five kills at random moments of a process at random; by turns fewer processes go on."""
    moments = random.Random(seed)
    fewer = seed % 4 == 3
    for kill in range(5):
        job = start(own_config, tmp_path, 1 if fewer and kill % 2 else 2, steps=STORM_STEPS)
        job.until(0, f"step {moments.randint(1, STORM_STEPS // 5)}" if kill == 0 else "step ")
        time.sleep(moments.uniform(0, 2))
        victim = moments.randrange(len(job.processes))
        job.kill(victim)
        assert_ended_or_done(job, victim)
    finish(own_config, tmp_path, 2, steps=STORM_STEPS)
    jobs.assert_same_losses(tmp_path, unbroken)
    if not fewer:
        for ours, theirs in zip(arrays(tmp_path), arrays(unbroken), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    shutil.rmtree(tmp_path)


def assert_ended_or_done(job: jobs.Job, victim: int) -> None:
    """As above, or the run was done before the kill."""
    statuses = job.wait(NOTICED)
    del statuses[victim]
    for status in statuses:
        assert status in (0, ProcessLostError.exit_status, -signal.SIGABRT), job.errors
