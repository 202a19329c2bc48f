"""What the compiler made of a training step, and where its time goes, on the device at hand.

    python -m jaxtag.profile --config=shapes_caption --workdir=runs/shapes
    python -m jaxtag.profile --config=imagenet_resnet50 --workdir=runs/r50 --data=random \\
        --config.batch_size=64
    python -m jaxtag.profile diff runs/shapes runs/other

Runs the step that jaxtag.train runs, on its own input, from fresh parameters, and prints a table.
Written to DIR/profile: profile.html (to look at), profile.json, step.before.hlo.txt and
step.after.hlo.txt (the program before and after the compiler), and trace, which xprof and Perfetto
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

from jaxtag import cli, process_flags
from jaxtag.config import flags as config_flag
from jaxtag.config import schema as configuration
from jaxtag.config.schema import Config
from jaxtag.distributed import compilation_cache
from jaxtag.errors import UsageError, UserError
from jaxtag.perf.profile import diff, measure, page, report, tables

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run; gets the folder `profile`.")
_PROCESSES = process_flags.define()
_DATA = flags.DEFINE_enum(
    "data",
    "pipeline",
    ["pipeline", "random"],
    "What the step gets: the data set through its pipeline, or one batch of noise, for which no "
    "data set is needed.",
)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps that are timed.", lower_bound=2)
_TRACED = flags.DEFINE_integer("traced", 3, "Steps that the profiler records.", lower_bound=1)


def main(words: list[str]) -> int:
    if words:
        if words[0] != "diff" or len(words) != 3:
            raise UsageError("usage: jaxtag.profile diff OLD NEW, or --config=NAME --workdir=DIR")
        print(diff.table(report.load(words[1]), report.load(words[2])))
        return 0
    if _CONFIG.value is None:
        raise UsageError(f"--config is missing (there are: {', '.join(config_flag.names())})")
    if _WORKDIR.value is None:
        raise UsageError("--workdir is missing: the folder that gets the folder `profile`")
    config, folder = configuration.check(_CONFIG.value), Path(_WORKDIR.value) / "profile"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    # A program from the cache would name the lines and modules of the code that it was made from.
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    with _PROCESSES.joined(), _full_disk_told(folder):
        job = measure.prepare(config, folder, random=_DATA.value == "random")
        print("compiling, timing and tracing the step …", file=sys.stderr)
        try:
            measured = measure.measure(job, _STEPS.value, _TRACED.value, folder)
        finally:
            job.close()
        if jax.process_index() == 0:
            _write(config, job, measured, folder)
    return 0


@contextlib.contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Vocabulary, checkpoint, trace and pages: a disk that takes no more is the user's to mend."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error


def _write(config: Config, job: measure.Job, measured: measure.Measured, folder: Path) -> None:
    (folder / "step.before.hlo.txt").write_text(measured.before, encoding="utf-8")
    (folder / "step.after.hlo.txt").write_text(measured.compiled.as_text(), encoding="utf-8")
    title = f"{config.task}, {config.model.backbone}, {config.data.dataset}, {config.batch_size} x"
    profile = report.make(f"{title} {config.data.image_size} px", job, measured, folder)
    report.write(profile, folder)
    page.write(profile, folder)
    print(tables.as_text(profile))
    print(f"\nto look at: {folder / 'profile.html'}")


if __name__ == "__main__":
    cli.run(main, positional=True)
