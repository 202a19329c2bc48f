"""The training loop: it reads top to bottom, and nothing hides the step."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxtag.config import serialization
from jaxtag.config.schema import Config
from jaxtag.data import pipeline, samplers
from jaxtag.data.feature_table import with_features
from jaxtag.data.mixture import MixtureSampler
from jaxtag.data.sources import Source
from jaxtag.distributed import coordination, sharding, watchdog
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UserError
from jaxtag.storage import store_lock
from jaxtag.tasks.base import Data, Evaluation, Scores, Task
from jaxtag.tasks.evaluator import Evaluator
from jaxtag.training import (
    cached_features,
    initialization,
    metric_writer,
    precise_bn,
    restarts,
    run_data,
    train_state,
)
from jaxtag.training import callbacks as callback_module
from jaxtag.training.callbacks import Callback, EarlyStopping
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.goodput import GoodputRecorder
from jaxtag.training.metric_writer import JsonlMetricWriter, MetricWriter, MultiWriter, RunInfo
from jaxtag.training.preemption import Preemption, StopRequested
from jaxtag.training.setup import TrainSetup, make_config_mesh
from jaxtag.training.stepper import Stepper
from jaxtag.training.timer import StartupTimer
from jaxtag.training.train_state import TrainState

_PATIENCE = 10  # times config.hang_timeout, where the loop compiles, evaluates or saves


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    Attributes:
        state: the last state.
        evaluation: of the whole evaluation split; None where the run was told to stop before.
        preempted: it was told to stop, has saved, and wants to be started again.
        scores: the model's metrics beside those of baselines; on process 0, by `jaxtag.fit`.
        advice: what to do, where the model does not beat a baseline, likewise.
        contact_sheet: where its sample predictions are drawn, likewise.
    """

    state: TrainState
    evaluation: Evaluation | None
    preempted: bool = False
    scores: Scores | None = None
    advice: str | None = None
    contact_sheet: Path | None = None


def train(
    config: Config,
    workdir: Path,
    task: Task,
    data: Data,
    *,
    metric_writers: Sequence[MetricWriter] = (),
    callbacks: Sequence[Callback] = (),
    startup: StartupTimer | None = None,
) -> TrainResult:
    """Trains as `config` says, or goes on where `workdir` stopped.

    Args:
        config: resolved and checked.
        workdir: for checkpoints and metrics.
        task: of the configuration, with the vocabulary of `data`.
        data: what is trained and evaluated on.
        metric_writers: besides those of `config.metric_writers`.
        callbacks: besides those of `config.callbacks`.
        startup: where the time since the start of the process went; by default it counts from here.

    Raises:
        UserError: the data, a checkpoint or a gradient is not as it must be.
    """
    startup = startup or StartupTimer()
    data = cached_features.with_sources(task, data)
    setup = TrainSetup.from_config(config, task, len(data.train))
    batches = training_batches(task, data.train)
    iterator = batches()
    rollout = task.make_rollout(setup.mesh, data.train)
    bn_batches = config.optimizer.ema_bn_batches
    recalibrate = precise_bn.make_bn_recalibration(task, setup.mesh, batches, bn_batches)
    goodput = GoodputRecorder(workdir, startup)
    callbacks = [goodput, *callback_module.from_config(config), *callbacks]
    best_metric = config.checkpoint.best_metric or task.headline_metrics[0]
    stopping = EarlyStopping(config.stop_after, _history(config, workdir, best_metric))
    startup.done("model")
    with (
        _checkpoints(config, workdir, best_metric) as checkpoints,
        Preemption(config.hang_timeout) as preemption,
    ):
        restarts.record_start(workdir, checkpoints.steps)
        state, start, evaluated = _restore_or_init(setup, checkpoints, iterator, data, workdir)
        cached_features.fill(task, setup.mesh, state.variables, data)
        startup.done("state")
        iterator.start_prefetch()
        total = setup.total_steps
        ended = start > 0 and (start >= total or stopping.should_stop)
        info = RunInfo(workdir, start, total, config)
        writer = _open_writer(config, [goodput, *metric_writers], info, ended)
        writer.write_text(_opening(setup, len(data.train), start))
        run = _Run(setup, data, workdir, checkpoints, preemption, writer, callbacks)
        stepper = Stepper(setup, batches, iterator, rollout, writer, startup)
        for callback in callbacks:
            callback.on_start(setup, workdir, start)
        evaluation, step, completed = None, start, False
        while True:
            finished = step >= total or stopping.should_stop
            stop = preemption.requested(step)
            watchdog.expect(config.hang_timeout * _PATIENCE)
            due = finished or (
                step % config.evaluate_every == 0 and (step > start or not evaluated)
            )
            if due:  # also where it is told to stop: the bits must not depend on that
                state = recalibrate(state)
            # Save, then evaluate, draw and step: a checkpoint holds the state and the place in the
            # data of one moment, and an evaluation that is killed loses nothing.
            if due or stop or (step > start and step % config.checkpoint_every == 0):
                run.save(step, state, iterator)
            if due and not stop:
                try:
                    evaluation, metrics = run.evaluate(step, state, whole=finished)
                except StopRequested:
                    break
                stepper.reset_timer()
                completed = finished
                if stopping.update(metrics.get(best_metric)) and not finished:
                    continue  # evaluates the whole split at this very step, as each run ends
            if finished or stop:
                break
            watchdog.expect(config.hang_timeout * (_PATIENCE if step == start else 1))
            state, outputs = stepper.take(state, step)
            step += 1
            for callback in callbacks:
                callback.on_step(step, state, outputs)
            if step % config.log_every == 0 or step == total:
                stepper.log(state, step)
                _check_workdir(workdir)
            checkpoints.check()
        stepper.close()
        if not ended:
            writer.write_text(f"{goodput.report()} of {goodput.hours:.2f} h")
        writer.close()
    _check_workdir(workdir)
    watchdog.expect(None)
    return TrainResult(state, evaluation if completed else None, preempted=not completed)


class _Run:
    """Saves and evaluates a run at a step.

    Args:
        setup: of the run.
        data: what is trained and evaluated on.
        workdir: its work directory.
        checkpoints: opened.
        preemption: tells an evaluation to stop.
        writer: of metrics.
        callbacks: told of each save and evaluation.
    """

    def __init__(
        self,
        setup: TrainSetup,
        data: Data,
        workdir: Path,
        checkpoints: Checkpoints,
        preemption: Preemption,
        writer: MultiWriter,
        callbacks: Sequence[Callback],
    ):
        config = setup.config
        self._task, self._workdir, self._checkpoints = setup.task, workdir, checkpoints
        self._preemption, self._writer, self._callbacks = preemption, writer, callbacks
        self._split, self._whole = config.data.evaluation_split, data.evaluation
        limit = config.evaluation.max_examples
        self._subset = self._whole if limit is None else self._whole.first(limit)
        self._evaluate = Evaluator(setup.task, setup.mesh)
        self._config = serialization.to_dict(config)
        self._notes = run_data.checkpoint_notes(config, workdir, data)

    def save(self, step: int, state: TrainState, iterator: pipeline.BatchIterator) -> None:
        """Saves a step, unless it is saved."""
        _check_workdir(self._workdir)
        self._writer.flush()  # a resumed run goes on from here, also in what it has written
        if self._checkpoints.save(step, state, iterator, self._config, notes=self._notes):
            for callback in self._callbacks:
                callback.on_checkpoint(step)

    def evaluate(
        self, step: int, state: TrainState, *, whole: bool
    ) -> tuple[Evaluation, dict[str, float]]:
        """Evaluates a saved step and adds the metrics to its checkpoint.

        Args:
            step: the step.
            state: after it.
            whole: of the whole split, not of the first `config.evaluation.max_examples`.

        Returns:
            The evaluation, and its metrics of those first examples: the best step is chosen on the
            same ones each time.

        Raises:
            StopRequested: the run is told to stop meanwhile.
        """
        evaluation = self._evaluate(
            state.evaluation_variables,
            self._whole if whole else self._subset,
            self._split,
            on_batch=functools.partial(self._preemption.check, step),
        )
        _report_evaluation(self._writer, self._task, step, evaluation, self._workdir)
        metrics = evaluation.subset_metrics(len(self._subset))
        self._writer.flush()
        self._checkpoints.add_metrics(step, metrics)
        for callback in self._callbacks:
            callback.on_evaluation(step, evaluation)
        return evaluation, metrics


def _restore_or_init(
    setup: TrainSetup,
    checkpoints: Checkpoints,
    iterator: pipeline.BatchIterator,
    data: Data,
    workdir: Path,
) -> tuple[TrainState, int, bool]:
    """The state and step of the newest checkpoint, with `iterator` moved there; else a new state.

    Returns:
        (state, step, whether an evaluation that was due at the step has come to its end).

    Raises:
        UserError: the checkpoint was saved with other labels than those of `data`.
    """
    if not coordination.run_on_process_zero(lambda: bool(checkpoints.steps())):
        return initialization.init_state(setup, data.train), 0, True
    if checkpoints.holds_weights_alone():
        return initialization.start_from_weights(setup, checkpoints), 0, True
    restored = checkpoints.restore(setup.shapes, iterator=iterator, renamed=train_state.RENAMED)
    path = run_data.vocabulary_path(setup.config, workdir)
    run_data.check_saved_labels(path, data.vocabulary, restored.notes)
    evaluated = bool(restored.notes["metrics"])
    if not evaluated:
        metrics = coordination.run_on_process_zero(lambda: _written_metrics(workdir, restored.step))
        evaluated = bool(metrics)
        if evaluated:  # killed before they joined the checkpoint
            checkpoints.add_metrics(restored.step, metrics)
    return restored.state, restored.step, evaluated


def _written_metrics(workdir: Path, step: int) -> dict[str, float]:
    """What `metrics.jsonl` has of the evaluation at a step, if anything."""
    entries = metric_writer.read_metrics(workdir, "evaluation")
    metrics = next((entry for entry in reversed(entries) if entry["step"] == step), {})
    return {name: value for name, value in metrics.items() if name not in ("step", "split")}


def training_batches(task: Task, source: Source) -> Callable[[], pipeline.BatchIterator]:
    """A function that starts this process's share of the training batches, from the first on."""
    config = task.config
    return functools.partial(
        pipeline.train_batches,
        source,
        example=with_features(task.example_spec(train=True), source, images=False),
        batch_size=config.batch_size,
        seed=config.seed,
        sampler=_make_sampler(task, source),
        rows=meshes.local_row_indices(make_config_mesh(config), config.batch_size),
        num_workers=config.data.num_workers,
        num_threads=config.data.num_threads,
    )


def _make_sampler(task: Task, source: Source) -> samplers.Sampler:
    """The order of the training records: the task's own, that of a mixture, or a shuffle."""
    config, parts = task.config, source.mixture_parts()
    own = task.make_sampler(source)
    if own is not None:
        if config.data.shuffle == "blocks" or config.data.datasets:
            raise UserError(
                "config.task draws batches by their labels: leave out config.data.datasets and "
                "config.data.shuffle"
            )
        return own
    if config.data.datasets:
        return MixtureSampler(parts, batch_size=config.batch_size, seed=config.seed)
    return samplers.make_shuffle_sampler(
        config.data.shuffle,
        len(source),
        batch_size=config.batch_size,
        block_size=config.data.shuffle_block_size,
        buffer_size=config.data.shuffle_buffer_size,
        seed=config.seed,
    )


def _checkpoints(config: Config, workdir: Path, best_metric: str) -> Checkpoints:
    return Checkpoints(
        workdir / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_best=config.checkpoint.keep_best,
        best_metric=best_metric,
    )


def _history(config: Config, workdir: Path, best_metric: str) -> list[float]:
    """The metric of early stopping at the evaluations before this process started."""
    if config.stop_after is None:
        return []

    def read() -> list[float]:
        entries = metric_writer.read_metrics(workdir, "evaluation")
        newest = max(Checkpoints(workdir / "checkpoints", keep_last=1).steps(), default=0)
        return [e[best_metric] for e in entries if best_metric in e and e["step"] <= newest]

    return coordination.run_on_process_zero(read)


def _open_writer(
    config: Config, extra: Sequence[MetricWriter], run: RunInfo, ended: bool
) -> MultiWriter:
    """The metric writers, opened on process 0; the others have none.

    A run that had ended before it was started again is evaluated at its last step once more, and
    what that step's evaluation was stays as it was written.
    """
    writers = [*metric_writer.from_config(config), *extra] if jax.process_index() == 0 else []
    # Last: where metrics.jsonl has an evaluation, all others have it too, whenever it is killed.
    writers.sort(key=lambda writer: isinstance(writer, JsonlMetricWriter))
    if writers and ended:
        entries = metric_writer.read_metrics(run.workdir, "evaluation")
        if any(entry["step"] == run.start_step for entry in entries):
            writers = [writer for writer in writers if not writer.keeps]
    writer = MultiWriter(writers)
    writer.open(run)
    return writer


def _check_workdir(workdir: Path) -> None:
    """Raises UserError where the work directory was removed under the run, or taken over."""
    store_lock.check_held()
    if jax.process_index() == 0 and not (workdir / "config.json").exists():
        raise UserError(
            f"{workdir} was removed or moved while the run wrote to it: what it had saved is gone "
            "with it, or is where it was moved"
        )


def _opening(setup: TrainSetup, num_examples: int, start: int) -> str:
    """What is trained on which devices, for the head of the log."""
    count = sum(int(np.prod(item.shape)) for item in setup.param_shardings)
    mesh = ", ".join(f"{axis}={size}" for axis, size in setup.mesh.shape.items())
    lines = [
        f"{count:,} parameters; {num_examples:,} images; {setup.total_steps:,} steps of "
        f"{setup.config.batch_size} images",
        f"{setup.mesh.devices.size} x {jax.devices()[0].device_kind}, "
        f"{jax.process_count()} process(es); mesh {mesh}",
    ]
    if setup.mesh.devices.size > 1:
        lines.append(sharding.table(setup.param_shardings, setup.mesh))
    if start:
        lines.append(f"going on from step {start:,}")
    return "\n".join(lines)


def _report_evaluation(
    writer: MetricWriter, task: Task, step: int, evaluation: Evaluation, workdir: Path
) -> None:
    """Writes the metrics, the sample predictions and, on process 0, the evaluation's files."""
    writer.write_scalars(step, "evaluation", evaluation.metrics)
    writer.write_text(f"evaluation at step {step}: {task.headline(evaluation.metrics)}")
    for sample in evaluation.samples():
        writer.write_image(step, f"pictures/{sample.index}", sample.image, sample.prediction)
    if jax.process_index() == 0:
        evaluation.save_artifacts(workdir, step)
