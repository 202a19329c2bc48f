"""Ends a run that is started again and again and gets no further.

A launcher of `launch/` names a local file by $JAXTAG_STEP_FILE: each start writes the step there
from which it goes on, and the launcher gives its budget of restarts back when that step has grown.
A scheduler that starts a job again by itself and knows no steps (JobSet, Slurm's requeue) names the
job by $JAXTAG_JOB: the work directory then counts its starts from one step, and the fourth ends
with status 1.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from jaxtag.distributed import coordination
from jaxtag.errors import UserError
from jaxtag.storage import atomic_file, json_files

MAX_STARTS = 3  # from one step
FILE = "starts.json"
_STEP_FILE, _JOB = "JAXTAG_STEP_FILE", "JAXTAG_JOB"


def record_start(workdir: Path, saved_steps: Callable[[], list[int]]) -> None:
    """Reports from which step the run goes on; to be called on every process.

    Raises:
        UserError: The job has started it `MAX_STARTS` times from this step already.
    """
    step_file, job = os.environ.get(_STEP_FILE), os.environ.get(_JOB)
    if not step_file and not job:
        return

    def count() -> int:
        step = max(saved_steps(), default=0)
        if job:
            _count(workdir / FILE, step, job)
        return step

    step = coordination.run_on_process_zero(count)
    if step_file:  # one on each machine
        atomic_file.write_text(step_file, f"{step}\n", f"${_STEP_FILE}")


def _count(path: Path, step: int, job: str) -> None:
    previous = json_files.read(path) if path.exists() else {}
    same = (previous.get("job"), previous.get("step")) == (job, step)
    starts = previous["starts"] + 1 if same else 1
    if starts > MAX_STARTS:
        raise UserError(
            f"{MAX_STARTS} starts in a row got no further than step {step}: see in the log what "
            "ended them, and submit the run again when that is mended"
        )
    record = {"job": job, "step": step, "starts": starts}
    atomic_file.write_text(path, json.dumps(record) + "\n")
