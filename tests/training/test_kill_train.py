"""`python -m jaxtag.train`, killed and started again, ends with the very bits of an unbroken run.

Dropout, drop path, flips, crops, several captions a picture and the moving average are all on.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxtag.config import serialization
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.datasets import prepared
from jaxtag.tasks.caption.task import CaptionTask
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.setup import TrainSetup

STEPS = 40
OVERRIDES = [
    f"--config.total_steps={STEPS}",
    "--config.log_every=1",
    "--config.checkpoint_every=3",
    "--config.evaluate_every=1000",
    "--config.data.crop_scale=(0.5, 1.0)",
]


def start(config: str, workdir: Path, workers: int) -> subprocess.Popen:
    flags = [f"--config={config}", f"--workdir={workdir}", *OVERRIDES]
    return subprocess.Popen(
        [sys.executable, "-m", "jaxtag.train", *flags, f"--config.data.num_workers={workers}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,  # so that the workers die with it
    )


def finish(config: str, workdir: Path, workers: int = 0) -> list[np.ndarray]:
    """Runs to the end; all arrays of the last state."""
    process = start(config, workdir, workers)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    used = serialization.load(workdir)
    source = prepared.open_split(used.data.dataset, used.data.train_split, used.data.data_dir)
    task = CaptionTask(used, Tokenizer.load(workdir / "tokenizer.json"))
    shapes = TrainSetup.from_config(used, task, len(source)).shapes
    restored = Checkpoints(workdir / "checkpoints", keep_last=2).restore(shapes)
    assert restored.step == STEPS
    state = restored.state.replace(key=jax.random.key_data(restored.state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def unbroken(own_config, tmp_path_factory) -> list[np.ndarray]:
    return finish(own_config, tmp_path_factory.mktemp("unbroken"))


def kill_after(config: str, workdir: Path, workers: int, steps: int, seconds: float) -> None:
    """Kills some steps and some time after the start; or it ends before that, which is no harm."""
    process = start(config, workdir, workers)
    for line in process.stderr:
        steps -= line.startswith("step ")
        if steps < 0:
            break
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_at_a_random_moment(own_config, unbroken, tmp_path):
    """`tests/test_kills.py` kills a smaller run, and other commands, many times."""
    moments = random.Random(0)
    steps, seconds = moments.randint(0, STEPS // 4), moments.uniform(0, 0.3)
    kill_after(own_config, tmp_path, workers=0, steps=steps, seconds=seconds)
    for ours, theirs in zip(finish(own_config, tmp_path), unbroken, strict=True):
        np.testing.assert_array_equal(ours, theirs)
