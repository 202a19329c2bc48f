"""The report of a finished run: a table of scores and a contact sheet of samples."""

import json
from pathlib import Path

from jaxtag.storage.atomic_file import write_text
from jaxtag.tasks.base import Data, Evaluation, Scores, Task
from jaxtag.viz import contact_sheet

RESULTS = "results.json"


def contact_sheet_path(workdir: Path, task: Task) -> Path:
    """Where the contact sheet of a run lies."""
    return workdir / task.contact_sheet


def write_report(workdir: Path, task: Task, data: Data, evaluation: Evaluation) -> Scores:
    """Writes `results.json` and the contact sheet.

    Returns:
        {predictor: its scores}: the model, and predictors that it has to beat.
    """
    scores = evaluation.with_baselines(data)
    write_text(workdir / RESULTS, json.dumps(scores, indent=2) + "\n")
    samples = evaluation.samples()
    if samples:
        images, predictions, targets = zip(
            *((s.image, s.prediction, s.targets) for s in samples), strict=True
        )
        path = contact_sheet_path(workdir, task)
        contact_sheet.contact_sheet(images, predictions, targets, path)
    return scores
