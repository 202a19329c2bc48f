"""The training loop: it reads top to bottom, and nothing hides the step."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtag.config import schema as configuration
from jaxtag.config.schema import Config
from jaxtag.data import pipeline, sources
from jaxtag.data.samplers import ClassBalancedSampler
from jaxtag.distributed import coordination, sharding, watchdog
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UserError
from jaxtag.tasks import TASKS, common, evaluators
from jaxtag.training import initialization, precise_bn, vocabulary
from jaxtag.training import setup as experiments
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.metric_writer import MetricWriter
from jaxtag.training.preemption import Preemption
from jaxtag.training.timer import StartupTimer, StepTimer
from jaxtag.training.train_state import TrainState
from jaxtag.training.vocabulary import Vocabulary

_PATIENCE = 10  # times config.hang_timeout, where the loop compiles, evaluates or saves
_ENOUGH_PICTURES = 200  # before the share of broken ones says anything


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended.

    Attributes:
      state: the last state.
      evaluation: of the whole evaluation split; None where the run was told to stop before.
      preempted: it was told to stop, has saved, and wants to be started again.
    """

    state: TrainState
    evaluation: evaluators.Evaluation | None
    preempted: bool = False


def train(
    config: Config, workdir: Path, words: Vocabulary, startup: StartupTimer | None = None
) -> TrainResult:
    """Trains as `config` says, or goes on where `workdir` stopped.

    Args:
      config: resolved and checked.
      workdir: for checkpoints and metrics.
      words: the tokenizer of the captions, or the classes or tags.
      startup: where the time since the start of the process went; by default it counts from here.

    Raises:
      UserError: the data, a checkpoint or a gradient is not as it must be.
    """
    startup = startup or StartupTimer()
    data = config.data
    source = sources.open_split(data.dataset, data.train_split, data.data_dir)
    held_out = sources.open_split(data.dataset, data.evaluation_split, data.data_dir)
    some = held_out if (n := config.evaluation.max_examples) is None else held_out.first(n)
    experiment = experiments.build(config, len(words), len(source))
    batches = training_batches(config, source, words)
    iterator = batches()
    evaluator = evaluators.make(experiment.task, experiment.mesh, config, words)
    moments_batches = config.optimizer.ema_bn_batches
    refresh = precise_bn.make_bn_recalibration(
        experiment.task, experiment.mesh, batches, moments_batches
    )
    checkpoints = _checkpoints(config, workdir)
    saved_config = dataclasses.asdict(config)
    startup.done("model")
    with checkpoints, Preemption() as preemption:
        if coordination.run_on_process_zero(lambda: bool(checkpoints.steps())):
            restored = checkpoints.restore(experiment.shapes, iterator=iterator)
            state, start = restored.state, restored.step
        else:
            state, start = initialization.init_state(config, experiment, source), 0
        startup.done("state")
        iterator.start_prefetch()
        total = experiment.total_steps
        journal = MetricWriter(workdir, start, total, write=jax.process_index() == 0)
        journal.say(_opening(experiment, len(source), start))
        window, clock = _Window(config), StepTimer(startup, journal.say)
        evaluation, step = None, start
        while True:
            finished = step >= total
            stop = preemption.requested(step)
            evaluated = {}
            watchdog.expect(config.hang_timeout * _PATIENCE)
            due = finished or (step > start and step % config.evaluate_every == 0)
            if due:  # also where it is told to stop: the bits must not depend on that
                state = refresh(state)
            if finished or (due and not stop):
                evaluation = evaluator(state.evaluation_variables, held_out if finished else some)
                # What is best is found on the same pictures each time.
                evaluated = evaluation.part(some)
                evaluators.keep(evaluation, workdir, step)
                _tell(journal, config, step, evaluation)
                clock.reset()
            # Save, then draw, then step: a checkpoint holds the state and the place in the data
            # of one moment.
            if finished or stop or (step > start and step % config.checkpoint_every == 0):
                checkpoints.save(step, state, iterator, saved_config, evaluated)
            if finished or stop:
                break
            watchdog.expect(config.hang_timeout * (_PATIENCE if step == start else 1))
            began = time.perf_counter()
            batch = next(iterator)
            clock.drawn(began)
            state, metrics = experiment.step(
                state, meshes.make_global_batch(batch, experiment.mesh)
            )
            clock.dispatched(metrics["loss"])
            step += 1
            window.add(metrics)
            if step % config.log_every == 0 or step == total:
                values = window.read(step, clock)
                journal.write(step, "train", values)
                journal.progress(step, values)
                clock.reset()
            checkpoints.check()
        clock.close()
        journal.close()
        iterator.close()
    return TrainResult(state, evaluation if finished else None, preempted=not finished)


def training_batches(
    config: Config, source: sources.Source, words: Vocabulary
) -> Callable[[], pipeline.BatchIterator]:
    """What makes this process's share of the training batches, from the first one on."""
    return functools.partial(_batches, config, source, words, _order(config, source))


def _checkpoints(config: Config, workdir: Path) -> Checkpoints:
    keep = config.checkpoint
    return Checkpoints(
        workdir / "checkpoints",
        keep_last=keep.keep_last,
        keep_best=keep.keep_best,
        best_metric=evaluators.best_metric(config),
    )


def _order(config: Config, source: sources.Source) -> ClassBalancedSampler | None:
    """In which pictures come, where the task wants another order than a shuffle."""
    if config.task != "embed":
        return None
    return ClassBalancedSampler(
        sources.indices_by_class(source, configuration.label_feature(config)),
        batch_size=config.batch_size,
        per_class=config.task.samples_per_class,
        seed=config.seed,
    )


def _batches(
    config: Config, source: sources.Source, words: Vocabulary, order: ClassBalancedSampler | None
) -> pipeline.BatchIterator:
    """This process's share of the training batches."""
    return pipeline.train_batches(
        source,
        example=TASKS[config.task].example(config, words, train=True),
        batch_size=config.batch_size,
        seed=config.seed,
        order=order,
        rows=meshes.local_row_indices(experiments.make_config_mesh(config), config.batch_size),
        workers=config.data.num_workers,
        threads=config.data.num_threads,
    )


class _Window:
    """Metrics of the steps since the last log line; finds runs that go wrong."""

    def __init__(self, config: Config):
        self._config = config
        self._metrics: list[dict[str, Any]] = []
        self._pictures = self._broken = 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        self._metrics.append(metrics)

    def read(self, step: int, clock: StepTimer) -> dict[str, float]:
        """Means over the window, which starts anew. Waits for its last step."""
        fetched = jax.device_get(self._metrics)
        seconds, data_wait = clock.window()  # now that its steps have ended
        steps, self._metrics = len(fetched), []
        sums = {
            name: np.sum([np.asarray(item[name], np.float64) for item in fetched], axis=0)
            for name in fetched[0]
        }
        self._check_gradients(step, [item["skipped_in_row"][0] for item in fetched])
        self._check_pictures(*sums["broken"])
        values = {
            name: float(total / max(count, 1e-9))
            for name, (total, count) in sums.items()
            if name not in ("skipped_in_row", "skipped", "broken", "learning_rate")
        }
        values["learning_rate"] = float(fetched[-1]["learning_rate"][0])
        values["skipped"] = float(sums["skipped"][0])
        values["broken"] = float(sums["broken"][0])
        values["images_per_second"] = steps * self._config.batch_size / seconds
        values["seconds_per_step"] = seconds / steps
        values["data_wait"] = data_wait
        return values

    def _check_gradients(self, step: int, in_row: list[float]) -> None:
        limit = self._config.max_consecutive_nonfinite
        for place, count in enumerate(in_row):
            if count >= limit:
                last = step - len(in_row) + place
                raise UserError(
                    f"the gradient was not finite in {int(count)} steps in a row, "
                    f"{last - int(count) + 1} to {last}; these changed nothing. Lower "
                    "config.optimizer.learning_rate, set config.optimizer.grad_clip_norm, or take "
                    "config.model.dtype=float32 (limit: config.max_consecutive_nonfinite)"
                )

    def _check_pictures(self, broken: float, pictures: float) -> None:
        self._pictures += pictures
        self._broken += broken
        limit = self._config.data.max_corrupt_fraction
        if self._pictures >= _ENOUGH_PICTURES and self._broken > limit * self._pictures:
            raise UserError(
                f"{int(self._broken)} of {int(self._pictures)} pictures of "
                f"{self._config.data.dataset} could not be decoded, more than "
                f"config.data.max_corrupt_fraction = {limit:g}; prepare the data set again "
                "(its ledger names the broken files)"
            )


def _opening(experiment: experiments.TrainSetup, examples: int, start: int) -> str:
    """What is trained where, for the head of the log."""
    count = sum(int(np.prod(item.shape)) for item in experiment.placements)
    mesh = ", ".join(f"{axis}={size}" for axis, size in experiment.mesh.shape.items())
    lines = [
        f"{count:,} parameters; {examples:,} pictures; {experiment.total_steps:,} steps of "
        f"{experiment.config.batch_size} pictures",
        f"{experiment.mesh.devices.size} x {jax.devices()[0].device_kind}, "
        f"{jax.process_count()} process(es); mesh {mesh}",
    ]
    if experiment.mesh.devices.size > 1:
        lines.append(sharding.table(experiment.placements, experiment.mesh))
    if start:
        lines.append(f"going on from step {start:,}")
    return "\n".join(lines)


def _tell(
    journal: MetricWriter, config: Config, step: int, evaluation: evaluators.Evaluation
) -> None:
    journal.write(step, "evaluation", evaluation.metrics)
    journal.say(f"evaluation at step {step}: {evaluators.headline(config, evaluation.metrics)}")
    for index, picture, said, _ in evaluation.shown():
        journal.picture(step, f"pictures/{index}", picture, said)


def resolve_run_config(config: Config, workdir: Path, allow_changes: bool = False) -> Config:
    """The configuration to train with in `workdir`; process 0 writes it there.

    Raises:
      UserError: `workdir` holds a run that trained something else, unless `allow_changes`; it
        cannot be written, or is not shared by all processes.
    """

    def decide() -> str:
        return configuration.to_json(_decided(config, workdir, allow_changes))

    decided = configuration.from_json(coordination.run_on_process_zero(decide))
    if not (workdir / "config.json").exists():
        raise UserError(
            f"process {jax.process_index()} does not see what process 0 wrote into {workdir}: "
            "--workdir must be a folder that all machines share"
        )
    return decided


def _decided(config: Config, workdir: Path, allow_changes: bool) -> Config:
    """The configuration to train with, written into `workdir`.

    What the first run decided by itself (None in the configuration) stays as it was decided.
    """
    path = workdir / "config.json"
    decided = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, scan=common.resolve_scan(config.model.scan)),
    )
    if path.exists():
        old = configuration.load(workdir)
        if config.model.scan is None:
            decided.model.scan = old.model.scan
        changed = configuration.differences(old, decided)
        # Before the first checkpoint there is nothing that a change could spoil: a run that ended
        # over a wrong setting or absent data starts again with the right one.
        if changed and not allow_changes and vocabulary.has_checkpoints(workdir):
            raise UserError(_refusal(workdir, changed))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(configuration.to_json(decided), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{workdir} cannot be written: {error.strerror}") from error
    return decided


def _refusal(workdir: Path, changed: dict[str, tuple[Any, Any]]) -> str:
    lines: Iterable[str] = (
        f"  config.{name}: trained with {old!r}, now {new!r}"
        for name, (old, new) in changed.items()
    )
    return (
        f"{workdir} was trained with another configuration:\n"
        + "\n".join(lines)
        + "\ntake another --workdir, or say --allow_changes to go on all the same"
    )
