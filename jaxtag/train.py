"""Trains a model, or resumes an interrupted run.

    python -m jaxtag.train --config=shapes_caption --workdir=runs/shapes
    python -m jaxtag.train --config=coco_caption:variant=B/16,image_size=384 --workdir=runs/coco \\
        --config.optimizer.learning_rate=3e-4

Writes into the work directory: config.json, tokenizer.json (or classes.json), metrics.jsonl, board/
(TensorBoard), checkpoints/, and at the end captions.png (or classes.png) and results.json. Run the
same command again to resume.

Several processes train together: on Cloud TPU, under Slurm and Open MPI they find each other;
elsewhere give --coordinator_address, --num_processes and --process_id. The work directory must be a
folder that all of them share. The order of the images does not depend on the number of processes,
and a run may resume with another number.

Exit status: 0 success, 1 a user's mistake or a deterministic failure, 2 wrong use, 70 something
unexpected that starting again may mend (storage, network, a lost process), 75 told to stop
(SIGTERM, Ctrl-C) and saved.
"""

import sys

from absl import flags

from jaxtag import STARTED, cli
from jaxtag.config import flags as config_flags
from jaxtag.distributed import compilation_cache
from jaxtag.errors import printable
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
        "Resume although the configuration trains something else than before.",
    )


def main(_: list[str]) -> int:
    import jax  # after the flags: --help is quick

    from jaxtag import api
    from jaxtag.tasks import evaluator

    startup = StartupTimer(STARTED)
    startup.done("imports")
    config = cli.required_config()
    cli.require("workdir", ": the folder for checkpoints and metrics")
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    with cli.join_job():
        result = api.fit(config, FLAGS.workdir, allow_changes=FLAGS.allow_changes, startup=startup)
    if result.preempted:
        if jax.process_index() == 0:
            print(
                f"stopped and saved at step {int(result.state.step):,}: the same command goes on "
                "from there",
                file=sys.stderr,
            )
        return RESTART_STATUS
    if result.scores is not None:
        lines = [evaluator.table(result.scores), result.advice]
        lines.append(f"sample predictions: {result.contact_sheet}")
        print(printable("\n".join(filter(None, lines))))
    return 0


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
