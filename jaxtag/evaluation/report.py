"""What a finished run or an evaluation leaves to look at: a table of scores and a contact sheet."""

import itertools
import json
import random
from pathlib import Path

from jaxtag.config import Config
from jaxtag.data import sources
from jaxtag.evaluation import captions, sheet

SHEET = "captions.png"
RESULTS = "results.json"
_CANDIDATES = 20  # constant captions that are tried


def write(
    workdir: Path, config: Config, evaluation: captions.Evaluation
) -> dict[str, dict[str, float]]:
    """Writes captions.png and results.json.

    Returns:
      {captioner: its scores}: the model, and two that do not look at the picture.
    """
    data = config.data
    held_out = sources.open_split(data.dataset, data.evaluation_split, data.data_dir)
    training = sources.open_split(data.dataset, data.train_split, data.data_dir)
    model = {
        name: value
        for name, value in evaluation.metrics.items()
        if name not in ("examples", "cross_entropy")
    }
    candidates = _candidates(training, config.seed)
    rows = {"model": model, **captions.baselines(evaluation, candidates, held_out)}
    (workdir / RESULTS).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    shown = sorted(evaluation.pictures)
    sheet.contact_sheet(
        [evaluation.pictures[index] for index in shown],
        [evaluation.captions[index] for index in shown],
        [evaluation.references[index] for index in shown],
        workdir / SHEET,
    )
    return rows


def _candidates(training: sources.Source, seed: int) -> list[str]:
    """Training captions, the same for the same seed."""
    texts = list(itertools.chain.from_iterable(sources.captions_of(training.first(2000))))
    return random.Random(seed).sample(texts, min(_CANDIDATES, len(texts)))
