"""Ends a run that is started again and again and gets no further.

A launcher of `launch/` names a local file by $JAXTAG_STEP_FILE: process 0 of each start writes the
step there from which it goes on, and the launcher gives its budget of restarts back when that step
has grown. A scheduler that starts a job again by itself and knows no steps (JobSet, Slurm's
requeue) passes the number of the restart as $JAXTAG_RESTART, 0 at first: the work directory then
counts the starts from one step, and the fourth ends with status 1.
"""

import os
from collections.abc import Callable
from pathlib import Path

from jaxtag.distributed import coordination
from jaxtag.errors import UserError
from jaxtag.storage import atomic_file, json_files

MAX_STARTS = 3  # from one step
FILE = "starts.json"
_STEP_FILE, _RESTART = "JAXTAG_STEP_FILE", "JAXTAG_RESTART"


def record_start(workdir: Path, saved_steps: Callable[[], list[int]]) -> None:
    """Reports from which step the run goes on; to be called on every process.

    Raises:
        UserError: The scheduler has started it `MAX_STARTS` times from this step already.
    """
    if any(name in os.environ for name in (_STEP_FILE, _RESTART)):
        coordination.run_on_process_zero(lambda: _record(workdir, max(saved_steps(), default=0)))


def _record(workdir: Path, step: int) -> None:
    if step_file := os.environ.get(_STEP_FILE):
        atomic_file.write_text(step_file, f"{step}\n", f"${_STEP_FILE}")
    if restart := os.environ.get(_RESTART):
        _count(workdir / FILE, step, restart != "0")


def _count(path: Path, step: int, restarted: bool) -> None:
    previous = json_files.read(path) if restarted and path.exists() else {}
    starts = previous["starts"] + 1 if previous.get("step") == step else 1
    if starts > MAX_STARTS:
        raise UserError(
            f"{MAX_STARTS} starts in a row got no further than step {step}: see in the log what "
            "ended them, and submit the run again when that is mended"
        )
    atomic_file.write_text(path, f'{{"step": {step}, "starts": {starts}}}\n')
