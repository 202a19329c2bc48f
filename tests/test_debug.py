"""`debug replay`: one step of a run again, example by example, with what the run computed."""

import json

import numpy as np
import pytest
from calling import call

from jaxtag.config import serialization
from jaxtag.training import example_losses, loop, run_data, train_state
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.setup import TrainSetup


@pytest.fixture(scope="module")
def saved(tiny_run):
    """(setup, state, batches, step) of the newest checkpoint of a run."""
    config = serialization.load(tiny_run)
    data = run_data.open_data(config, tiny_run)
    task = run_data.task_class(config)(config, data.vocabulary)
    setup = TrainSetup.from_config(config, task, len(data.train))
    with Checkpoints(tiny_run / "checkpoints", keep_last=1) as checkpoints:
        restored = checkpoints.restore(setup.shapes, renamed=train_state.RENAMED)
    return setup, restored.state, loop.training_batches(task, data.train), restored.step


def test_replay_prints_the_examples_of_the_step(tiny_run, saved):
    step = saved[-1]
    done = call("debug", "replay", f"--workdir={tiny_run}", f"--step={step + 1}", "--examples=3")
    assert done.status == 0, done.err
    header, *rows = done.out.splitlines()[:-1]
    assert header.split() == ["loss", "process", "record", "file"]
    losses = [float(row.split()[0]) for row in rows]
    assert len(losses) == 3 and losses == sorted(losses, reverse=True)
    assert (done.last["step"], done.last["checkpoint"]) == (step + 1, step)
    assert done.last["finite"] and done.last["nonfinite_records"] == []


def test_the_losses_add_up_to_the_loss_of_the_step(saved):
    setup, state, batches, step = saved
    batch = example_losses.make_batch(setup, batches, step)
    examples = example_losses.example_losses(setup, state, batch)
    _, metrics = setup.step(state, batch)
    total, count = map(float, metrics["loss"])
    assert np.average(examples.losses, weights=examples.weights) == pytest.approx(
        total / count, rel=1e-5
    )


def test_a_process_whose_losses_are_not_finite_is_named():
    losses = np.array([1.0, np.nan, np.inf, 2.0], np.float32)
    examples = example_losses.ExampleLosses(
        np.array([40, 41, 42, 43]), np.array([0, 1, 1, 0]), losses, np.ones(4, np.float32)
    )
    assert examples.describe_nonfinite() == (
        "the loss of 2 of 4 examples is not finite, records of process 1: 41, 42"
    )


def test_a_step_before_the_first_checkpoint_is_refused(tiny_run):
    done = call("debug", "replay", f"--workdir={tiny_run}", "--step=0")
    assert done.status == 1
    assert "has no checkpoint of step 0 or before it" in done.err
    assert call("debug", "replay", f"--workdir={tiny_run}").status == 2


def test_the_last_line_is_json_though_the_loss_is_not_finite(tiny_run, saved, monkeypatch):
    def spoil(setup, state, batch):
        examples = example_losses.ExampleLosses(
            np.array([7, 8]), np.array([0, 0]), np.array([1.0, np.nan]), np.ones(2)
        )
        return examples

    monkeypatch.setattr(example_losses, "example_losses", spoil)
    done = call("debug", "replay", f"--workdir={tiny_run}", f"--step={saved[-1]}")
    assert done.status == 0, done.err
    assert "nan" in done.out.splitlines()[1]
    last = json.loads(done.out.splitlines()[-1])
    assert last["loss"] is None and last["nonfinite_records"] == [8]
