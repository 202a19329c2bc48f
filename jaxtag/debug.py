"""Looks into a run that goes wrong.

    python -m jaxtag.debug replay --workdir=runs/coco --step=12000

`replay` runs one training step of a run again, with its batch, its random numbers and the newest
checkpoint before it, and prints the loss of each example, the highest first: the records that spoil
a step (a gradient that is not finite), on any devices. --exact makes the steps between the
checkpoint and that step too, so that the state is the run's own. Nothing in the work directory
changes. The last line on stdout is one JSON object with `step`, `checkpoint`, `finite`, `loss`,
`grad_norm` and `nonfinite_records`.

Fields may be changed, to see whether they matter: --config.model.dtype=float32.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jaxtag import cli
from jaxtag.config import checks, serialization
from jaxtag.config import flags as config_flags
from jaxtag.errors import UsageError, UserError, printable
from jaxtag.storage.paths import make_path

FLAGS = flags.FLAGS
_SUBCOMMANDS = ("replay",)


def define_flags() -> None:
    config_flags.define()
    cli.define_process_flags()
    flags.DEFINE_string("workdir", None, "Folder of a run of jaxtag.train.")
    flags.DEFINE_integer("step", None, "Steps made before the one to replay.", lower_bound=0)
    flags.DEFINE_bool("exact", False, "Make the steps since the checkpoint too.")
    flags.DEFINE_integer("examples", 10, "Examples to print.", lower_bound=1)


def main(_: list[str]) -> None:
    import jax  # after the flags: --help is quick

    cli.require("workdir", ": the folder of the run")
    if FLAGS.step is None:
        raise UsageError("--step is missing: the step to replay, as an error names it")
    workdir = make_path(FLAGS.workdir, "--workdir")
    with cli.join_job():
        summary, rows = _replay(workdir, FLAGS.step, FLAGS.exact)
        if jax.process_index() == 0:
            print("    loss  process    record  file")
            for loss, process, record, file in rows[: FLAGS.examples]:
                print(f"{loss:8.3f}  {process:7}  {record:8}  {printable(file)}")
            print(json.dumps(summary))


def _replay(workdir: Path, step: int, exact: bool) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """What the last line says, and (loss, process, record, file) of each example."""
    import jax

    from jaxtag.training import example_losses, loop, run_data, train_state
    from jaxtag.training.checkpoint import Checkpoints
    from jaxtag.training.setup import TrainSetup

    config = checks.check(FLAGS.config or serialization.load(workdir))
    data = run_data.open_data(config, workdir)
    task = run_data.task_class(config)(config, data.vocabulary)
    setup = TrainSetup.from_config(config, task, len(data.train))
    with Checkpoints(workdir / "checkpoints", keep_last=config.checkpoint.keep_last) as checkpoints:
        start = max((saved for saved in checkpoints.steps() if saved <= step), default=None)
        if start is None:
            raise UserError(f"{workdir} has no checkpoint of step {step} or before it")
        state = checkpoints.restore(setup.shapes, start, renamed=train_state.RENAMED).state
    batches = loop.training_batches(task, data.train)
    for earlier in range(start, step) if exact else ():
        state, _ = setup.step(state, example_losses.make_batch(setup, batches, earlier))
    state = state.replace(step=np.int32(step))
    batch = example_losses.make_batch(setup, batches, step)
    examples = example_losses.example_losses(setup, state, batch)
    _, metrics = setup.step(state, batch)
    values = {name: float(total) for name, (total, _) in jax.device_get(metrics).items()}
    loss = float(np.average(examples.losses, weights=np.maximum(examples.weights, 1e-8)))
    summary = {
        "step": step,
        "checkpoint": start,
        "finite": not values["skipped_steps"],
        "loss": loss if math.isfinite(loss) else None,
        "grad_norm": values["grad_norm"],
        "nonfinite_records": examples.index[examples.nonfinite_rows].tolist(),
    }
    records = data.train.__getitems__(examples.index.tolist())
    losses = np.broadcast_to(examples.losses, examples.index.shape)
    order = np.argsort(-np.nan_to_num(losses, nan=np.inf), kind="stable")
    return summary, [
        (losses[i], examples.process[i], examples.index[i], str(records[i].get("file", "")))
        for i in order
    ]


def run() -> None:
    cli.run(main, define_flags, subcommands=_SUBCOMMANDS)


if __name__ == "__main__":
    run()
