"""The Python interface: what `import jaxtag` offers."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxtag.config import schema
from jaxtag.config.schema import Config
from jaxtag.inference import predictor
from jaxtag.inference.predictor import Predictor
from jaxtag.tasks.evaluator import Evaluator
from jaxtag.training import loop, report, run_config, run_data
from jaxtag.training.callbacks import Callback
from jaxtag.training.loop import TrainResult
from jaxtag.training.metric_writer import MetricWriter
from jaxtag.training.timer import StartupTimer


def load(workdir: str | os.PathLike[str], step: str | int = "newest") -> Predictor:
    """Loads a trained model for predictions and features (see `Predictor`).

    Args:
        workdir: of a run of `fit` or of the command `train`.
        step: of the checkpoint: "newest", "best", or a number.

    Raises:
        UserError: there is no such run or checkpoint.
    """
    return predictor.load(workdir, step=step)


def fit(
    config: Config,
    workdir: str | os.PathLike[str],
    data: Mapping[str, Any] | None = None,
    *,
    metric_writers: Sequence[MetricWriter] = (),
    callbacks: Sequence[Callback] = (),
    allow_changes: bool = False,
    startup: StartupTimer | None = None,
) -> TrainResult:
    """Trains as `config` says, or goes on where `workdir` stopped; the command `train` calls it.

    Args:
        config: what to train, e.g. `jaxtag.load_config("shapes_caption")`.
        workdir: for everything that the run writes.
        data: sources by the names of `config.data.train_split` and `evaluation_split`, instead
            of a prepared data set: anything with `__len__` and `__getitems__`, or a
            `grain.MapDataset`, of records such as {"image": bytes or uint8 [H, W, 3], "label": 3}.
        metric_writers, callbacks: besides those that `config` names.
        allow_changes: go on although `config` trains something else than `workdir` did.
        startup: where the time since the start of the process went, for the log.

    Raises:
        UserError: a setting, the data or a checkpoint is not as it must be.
    """
    startup, workdir = startup or StartupTimer(), Path(workdir)
    config = run_config.resolve_run_config(schema.check(config), workdir, allow_changes)
    opened = run_data.open_data(config, workdir, data)
    task = run_data.task_class(config)(config, opened.vocabulary)
    startup.done("data")
    result = loop.train(
        config,
        workdir,
        task,
        opened,
        metric_writers=metric_writers,
        callbacks=callbacks,
        startup=startup,
    )
    if result.evaluation is not None and jax.process_index() == 0:
        scores = report.write_report(workdir, task, opened, result.evaluation)
        sheet = report.contact_sheet_path(workdir, task)
        return dataclasses.replace(result, scores=scores, contact_sheet=sheet)
    return result


def evaluate(
    workdir: str | os.PathLike[str],
    split: str | None = None,
    data: Mapping[str, Any] | None = None,
    *,
    config: Config | None = None,
    step: str | int = "newest",
) -> dict[str, Any]:
    """Metrics of a trained model on a split.

    Args:
        split: by default the run's evaluation split.
        data: sources by the names of splits, instead of the run's data set.
        config: by default the run's own.

    Returns:
        `split`, `step` and the metrics; `per_tag` where the task has metrics of each tag.
    """
    model = predictor.load(workdir, config, step)
    split = split or model.config.data.evaluation_split
    source = run_data.open_source(model.config.data, split, data)
    evaluation = Evaluator(model.task, model.mesh)(model.variables, source, split)
    if jax.process_index() == 0:
        evaluation.save_artifacts(Path(workdir), model.step)
    metrics: dict[str, Any] = {"split": split, "step": model.step, **evaluation.metrics}
    per_class = evaluation.per_class()
    return metrics | ({"per_tag": per_class} if per_class else {})
