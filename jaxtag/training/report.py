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


def advice(task: Task, scores: Scores, num_examples: int) -> str | None:
    """One line where the model does not beat a baseline; None where it does.

    The metrics compared are the two that matter most to the task.

    Args:
        scores: as `write_report` returns them.
        num_examples: that the model was trained on.
    """
    model, lost = scores["model"], []
    for name, baseline in scores.items():
        for metric in task.headline_metrics[:2]:
            if name == "model" or metric not in model or metric not in baseline:
                continue
            if not (model[metric] > baseline[metric] or model[metric] == 1):
                lost.append(f"{name!r} in {metric} ({model[metric]:.3f}, {baseline[metric]:.3f})")
    if not lost:
        return None
    ways = ["train on more pictures, or for more steps"]
    if task.label_names is not None:
        ways.insert(0, "label by the nearest pictures (python -m jaxtag.index), which needs few")
    if task.config.model.pretrained is None and task.pretrained is None:
        ways.insert(0, "start from published weights (--config.model.pretrained=REF)")
    return (
        f"the model, trained on {num_examples} pictures, does not beat {', '.join(lost)}: "
        + "; ".join(ways)
    )
