"""What the tests that walk the whole way share: files to a finished run, and going on with one."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from calling import call

from jaxtag.config.schema import Config
from jaxtag.inference import predictor
from jaxtag.training import loop, preemption, run_data
from jaxtag.training.train_state import TrainState


def finished_run(root: Path, dataset: str, config: str) -> tuple[Path, str]:
    """Prepares the pictures in root/source and trains on them.

    Args:
      config: text of a configuration file, whose get_config takes `data_dir`.

    Returns:
      (the work directory, what to give as --config).
    """
    data, path = root / "data", root / "own.py"
    made = call(
        "prepare", f"--dataset={dataset}", f"--source={root / 'source'}", f"--data_dir={data}"
    )
    assert made.status == 0, made.err
    path.write_text(config)
    name = f"{path}:data_dir={data}"
    done = call("train", f"--config={name}", f"--workdir={root / 'run'}")
    assert done.status == 0, done.err
    return root / "run", name


def check_going_on(config: Config, folder: Path, monkeypatch, stop_at: int) -> TrainState:
    """A run that was told to stop at a step ends with the bits of an unbroken one: its state.

    It is to have two checkpoints, of `checkpoint_every` and of the end, with the stop before both.
    """

    def train(workdir: Path) -> loop.TrainResult:
        workdir.mkdir(exist_ok=True)
        data = run_data.open_data(config, workdir)
        task = run_data.task_class(config)(config, data.vocabulary)
        return loop.train(config, workdir, task, data)

    unbroken = train(folder / "unbroken").state
    with monkeypatch.context() as patch:
        patch.setattr(preemption.Preemption, "requested", lambda self, step: step == stop_at)
        assert train(folder / "broken").preempted
    state = train(folder / "broken").state
    assert int(state.step) == config.total_steps
    _check_same_bits(state, unbroken)
    # The end makes some things anew: what was saved on the way has to be the same as well.
    for step in config.checkpoint_every, config.total_steps:
        one, other = (
            predictor.load(folder / name, config, str(step)).variables
            for name in ("unbroken", "broken")
        )
        _check_same_bits(one, other)
    return state


def _check_same_bits(one: Any, other: Any) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = map(jax.random.key_data, (a, b))
        np.testing.assert_array_equal(a, b)
