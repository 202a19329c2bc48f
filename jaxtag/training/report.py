"""What a finished run leaves to look at: a table of scores and a contact sheet."""

import json
from pathlib import Path

from jaxtag.config.schema import Config
from jaxtag.tasks.evaluators import Evaluation, Rows
from jaxtag.viz import contact_sheet

_SHEETS = {
    "caption": "captions.png",
    "classify": "classes.png",
    "embed": "neighbours.png",
    "tag": "tags.png",
}
RESULTS = "results.json"


def sheet_path(workdir: Path, config: Config) -> Path:
    """Where the contact sheet of a run lies."""
    return workdir / _SHEETS[config.task]


def write(workdir: Path, config: Config, evaluation: Evaluation) -> Rows:
    """Writes the contact sheet and results.json.

    Returns:
      {predictor: its scores}: the model, and others that do not look at the picture.
    """
    rows = evaluation.compared(config)
    (workdir / RESULTS).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    _, pictures, said, right = zip(*evaluation.shown(), strict=True)
    contact_sheet.contact_sheet(pictures, said, right, sheet_path(workdir, config))
    return rows
