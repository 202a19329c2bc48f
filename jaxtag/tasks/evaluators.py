"""What an evaluation is, whatever the task: numbers, pictures to look at, a file of its own."""

from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from jaxtag.config.schema import Config
from jaxtag.data.sources import Source
from jaxtag.tasks import Task
from jaxtag.tasks.caption import evaluator as captions
from jaxtag.tasks.classify import evaluator as classes
from jaxtag.tasks.embed import evaluator as embeddings
from jaxtag.tasks.tag import evaluator as tags

Rows = dict[str, dict[str, float]]  # {what was scored: its metrics}, for a table


class Evaluation(Protocol):
    """What was found on a split."""

    metrics: dict[str, float]

    def part(self, source: Source) -> dict[str, float]:
        """Metrics on the pictures of `source`, the first ones of the split."""

    def shown(self) -> list[tuple[int, np.ndarray, str, list[str]]]:
        """(position, picture uint8 [S, S, 3], what the model says, what is right) of a few."""

    def compared(self, config: Config) -> Rows:
        """The model beside predictors that do not look at the picture."""


_EVALUATORS = {
    "caption": captions.CaptionEvaluator,
    "classify": classes.ClassEvaluator,
    "embed": embeddings.EmbeddingEvaluator,
    "tag": tags.TagEvaluator,
}
_HEADLINES = {
    "caption": ("CIDEr", "BLEU-4", "perplexity", "token_accuracy"),
    "classify": ("top1", "top5", "cross_entropy", "calibration_error"),
    "embed": ("map@r", "recall@1", "r_precision", "nmi"),
    "tag": ("map", "f1@5", "n+", "micro_f1", "macro_f1"),
}


def make(task: Task, mesh: jax.sharding.Mesh, config: Config, vocabulary: Any) -> Any:
    """The evaluator of the task: a function (variables, source) -> Evaluation, compiled once."""
    return _EVALUATORS[config.task](task, mesh, config, vocabulary)


def keep(evaluation: Evaluation, workdir: Path, step: int) -> None:
    """Writes what use of the checkpoint of `step` takes and only an evaluation finds out."""
    if isinstance(evaluation, tags.Evaluation) and jax.process_index() == 0:
        evaluation.keep(workdir, step)


def details(evaluation: Evaluation) -> dict[str, Any]:
    """What there is beside the metrics, as JSON can hold it."""
    return {"per_tag": evaluation.per_tag()} if isinstance(evaluation, tags.Evaluation) else {}


def headline(config: Config, metrics: dict[str, float]) -> str:
    """The metrics that matter most, in words."""
    names = (name for name in _HEADLINES[config.task] if name in metrics)
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in names)


def best_metric(config: Config) -> str:
    """By which metric the best checkpoint is found."""
    return config.checkpoint.best_metric or _HEADLINES[config.task][0]


def table(rows: Rows) -> str:
    """A readable table: one row for each predictor, one column for each metric."""
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    lines = [["", *names]]
    for row, values in rows.items():
        lines.append([row, *(f"{values[n]:.3f}" if n in values else "" for n in names)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
