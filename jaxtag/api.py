"""The Python interface: what `import jaxtag` offers."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxtag.config import checks, serialization
from jaxtag.config.schema import Config
from jaxtag.data.sources import Source
from jaxtag.distributed import watchdog
from jaxtag.errors import UserError
from jaxtag.inference import predictor, zero_shot
from jaxtag.inference.checkpoint import CheckpointOptions
from jaxtag.inference.predictor import Predictor
from jaxtag.inference.writers import prediction_file
from jaxtag.storage.paths import make_path
from jaxtag.tasks.base import Data, Evaluation, Task
from jaxtag.tasks.evaluator import Evaluator
from jaxtag.training import loop, report, run_config, run_data
from jaxtag.training.callbacks import Callback
from jaxtag.training.loop import TrainResult
from jaxtag.training.metric_writer import MetricWriter
from jaxtag.training.timer import StartupTimer


def load(
    reference: str | os.PathLike[str],
    step: str | int = "newest",
    *,
    backbone: str | None = None,
    labels: Sequence[str] | None = None,
) -> Predictor:
    """Loads a model for predictions and features (see `Predictor`).

    Args:
        reference: the work directory of a run of `fit` or of the command `train`; or a published
            checkpoint: a file or folder of weights, `hf:owner/name[@revision][/file]`, or the name
            of a model whose weights an installed package brings.
        step: of a run's checkpoint: "newest", "best", or a number.
        backbone: the architecture of published weights that do not say it.
        labels: the names of their classes, likewise.

    Raises:
        UserError: there is no such run or checkpoint.
    """
    options = CheckpointOptions(backbone, None if labels is None else tuple(labels))
    return predictor.load(reference, step=step, options=options)


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
        allow_changes: go on although `config` trains something else than `workdir` did, or on
            other data.
        startup: where the time since the start of the process went, for the log.

    Raises:
        UserError: a setting, the data or a checkpoint is not as it must be.
    """
    startup, workdir = startup or StartupTimer(), make_path(workdir, "--workdir")
    with run_config.locked(workdir):
        config = run_config.resolve_run_config(checks.check(config), workdir, allow_changes)
        opened = run_data.open_data(config, workdir, data, allow_changes)
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
        if result.evaluation is None or jax.process_index() != 0:
            return result
        scores = report.write_report(workdir, task, opened, result.evaluation)
        return dataclasses.replace(
            result,
            scores=scores,
            advice=report.advice(task, scores, len(opened.train)),
            contact_sheet=report.contact_sheet_path(workdir, task),
        )


def evaluate(
    reference: str | os.PathLike[str],
    split: str | None = None,
    data: Mapping[str, Any] | None = None,
    *,
    config: Config | None = None,
    step: str | int = "newest",
    predictions: str | os.PathLike[str] | None = None,
    prompts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Metrics of a model on a split.

    Args:
        reference: as of `load`.
        split: by default the run's evaluation split.
        data: sources by the names of splits, instead of the run's data set.
        config: by default the run's own; of a published checkpoint it names the data.
        step: "newest", "best" or a number.
        predictions: file to write, .jsonl, .npz or .parquet: the truth and all scores of each
            image.
        prompts: of a model of images and texts: it is evaluated as a classifier or tagger of the
            names that the data set has, each of them put into these texts in the place of {} (see
            `jaxtag.inference.zero_shot`).

    Returns:
        `split`, `step` and the metrics; of a tagger also `per_tag`, of a classifier `per_class`
        and `confusion` (see `Evaluation.details`). On process 0 also `baselines`, the metrics of
        predictors that the model has to beat, and `advice` where it does not; both are absent where
        the training split is not there.

    Raises:
        UserError: there is no such checkpoint or split, or the data have labels that the model
            does not know. Labels are matched by name.
    """
    if predictions is not None:
        prediction_file.check_path(make_path(predictions, "--predictions"))
    model = predictor.load(reference, config, step)
    settings, is_run = model.config.data, serialization.is_workdir(model.workdir)
    if config is not None and not is_run:
        settings.dataset, settings.data_dir = config.data.dataset, config.data.data_dir
    split = split or settings.evaluation_split
    source = run_data.open_source(settings, split, data)
    if prompts is not None:
        model, is_run = zero_shot.for_source(model, source, prompts), False
    task, source = run_data.match_to_run(model.task, source)
    task.all_scores = predictions is not None
    evaluation = Evaluator(task, model.mesh)(model.variables, source, split)
    watchdog.expect(None)
    if jax.process_index() == 0:
        if is_run:
            evaluation.save_artifacts(model.workdir, model.step)
        if predictions is not None:
            names = getattr(task.vocabulary, "names", ())
            prediction_file.write_predictions(make_path(predictions), evaluation, names)
    return {
        **{"split": split, "step": model.step, **evaluation.metrics, **evaluation.details()},
        **(_baselines(task, evaluation, source, data) if jax.process_index() == 0 else {}),
    }


def _baselines(
    task: Task, evaluation: Evaluation, source: Source, data: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the metrics of a model are to be compared with; nothing without its training split."""
    settings = task.config.data
    try:
        train = run_data.open_source(settings, settings.train_split, data)
        _, train = run_data.match_to_run(task, train)
    except UserError:
        return {}
    scores = evaluation.with_baselines(Data(train, source, task.vocabulary))
    advice = report.advice(task, scores, len(train))
    scores.pop("model")
    return {"baselines": scores, **({"advice": advice} if advice else {})}
