"""Times and costs of a training step on the device at hand, by kernel and by module.

    python -m jaxtag.profile --config=shapes_caption --workdir=runs/shapes
    python -m jaxtag.profile --config=imagenet_resnet50 --workdir=runs/r50 --data=random \\
        --config.batch_size=64
    python -m jaxtag.profile diff runs/shapes runs/other

Runs the step that jaxtag.train runs, on its own input, from fresh parameters, and prints a table.
Written to DIR/profile: profile.html (to look at), profile.json, step.before.hlo.txt and
step.after.hlo.txt (the program before and after optimization), and trace, which xprof and Perfetto
open. `diff` compares two profiles, given by work directory or file. benchmarks/profiling.md goes
from a slow step to the kernel.

Several processes are started as those of jaxtag.train; the first of them times and traces the
devices that it has.
"""

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags

from jaxtag import cli
from jaxtag.config import flags as config_flags
from jaxtag.distributed import compilation_cache
from jaxtag.errors import UsageError, UserError
from jaxtag.perf.profile import diff, measure, report, tables
from jaxtag.storage.paths import is_store, make_path
from jaxtag.training import run_data

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_string("workdir", None, "Folder of a run; gets the folder `profile`.")
    cli.define_process_flags()
    flags.DEFINE_enum(
        "data",
        "pipeline",
        ["pipeline", "random"],
        "Input of the step: the data set through its pipeline, or one batch of noise, which needs "
        "no data set.",
    )
    flags.DEFINE_integer("steps", 20, "Steps that are timed.", lower_bound=2)
    flags.DEFINE_integer("trace_steps", 3, "Steps that the profiler records.", lower_bound=1)
    cli.define_alias("traced", "trace_steps")


def main(argv: list[str]) -> None:
    if argv:
        _diff(argv[1:])
    else:
        _profile()


def _diff(profiles: list[str]) -> None:
    if len(profiles) != 2:
        raise UsageError("usage: jaxtag.profile diff OLD NEW, or --config=NAME --workdir=DIR")
    old, new = map(report.load, profiles)
    print(diff.table(old, new))


def _profile() -> None:
    config = cli.required_config()
    config = run_data.task_class(config).with_pretrained(config)
    cli.require("workdir", ": the folder that gets the folder `profile`")
    folder = make_path(FLAGS.workdir, "--workdir") / "profile"
    if is_store(folder):
        raise UsageError(f"--workdir={FLAGS.workdir}: the profiler writes to a local folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    # Else a cached program names the lines and modules of the code that it was compiled from.
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    with cli.join_job(), _full_disk_as_user_error(folder):
        job = measure.prepare(config, folder, random=FLAGS.data == "random")
        print("compiling, timing and tracing the step …", file=sys.stderr)
        try:
            measurement = measure.measure(job, FLAGS.steps, FLAGS.trace_steps, folder)
        finally:
            job.close()
        if jax.process_index() == 0:
            profile = report.write(job, measurement, folder)
            print(tables.as_text(profile))
            print(f"\nto look at: {folder / report.HTML_FILE}")


@contextlib.contextmanager
def _full_disk_as_user_error(folder: Path) -> Iterator[None]:
    """Turns the OSError of a full or read-only disk into a UserError, whatever was written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error


def run() -> None:
    cli.run(main, define_flags, positional=True, subcommands=("diff",), subcommand_required=False)


if __name__ == "__main__":
    run()
