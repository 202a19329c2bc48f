"""Trains a model, or goes on where an interrupted run stopped.

    python -m jaxtag.train --config=shapes_caption --workdir=runs/shapes
    python -m jaxtag.train --config=coco_caption:variant=B/16,image_size=384 --workdir=runs/coco \\
        --config.optimizer.learning_rate=3e-4

Writes into the work directory: config.json, tokenizer.json (or classes.json), metrics.jsonl, board/
(TensorBoard), checkpoints/, and at the end captions.png (or classes.png) and results.json. Run the
same command again to go on.

Several processes train together: on Cloud TPU, under Slurm and Open MPI they find each other;
elsewhere --coordinator_address, --num_processes and --process_id say who is who. DIR must be a
folder that all share. The order of the pictures is the same for any number of them, and a run may
go on with another number.

Exit status: 0 done, 1 failure, 2 wrong use, 75 start it again: it was told to stop (SIGTERM,
Ctrl-C) and has saved all, or another process was lost.
"""

from pathlib import Path

import jax
from absl import flags

from jaxtag import STARTED, cli
from jaxtag.config import flags as config_flags
from jaxtag.config import schema
from jaxtag.distributed import compilation_cache
from jaxtag.tasks import evaluators
from jaxtag.training import loop, report, vocabulary
from jaxtag.training.preemption import RESTART_STATUS
from jaxtag.training.timer import StartupTimer

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_string("workdir", None, "Folder of the run; holds all that it writes.")
    cli.define_process_flags()
    flags.DEFINE_bool(
        "allow_changes",
        False,
        "Go on although the configuration trains something else than before.",
    )


def main(_: list[str]) -> int:
    startup = StartupTimer(STARTED)
    startup.done("imports")
    config = cli.required_config()
    cli.require("workdir", ": the folder for checkpoints and metrics")
    workdir = Path(FLAGS.workdir)
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    with cli.join_job():
        return _train(config, workdir, startup)


def _train(config: schema.Config, workdir: Path, startup: StartupTimer) -> int:
    config = loop.resolve_run_config(config, workdir, FLAGS.allow_changes)
    vocabulary.ensure_data(config)
    words = vocabulary.ensure(config, workdir)
    startup.done("data")
    outcome = loop.train(config, workdir, words, startup)
    if outcome.preempted:
        return RESTART_STATUS
    if jax.process_index() == 0:
        rows = report.write(workdir, config, outcome.evaluation)
        print(evaluators.table(rows))
        print(f"pictures, and what the model says of them: {report.sheet_path(workdir, config)}")
    return 0


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
