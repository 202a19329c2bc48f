"""Runs the training step of a configuration as `training.loop` does, and times its parts."""

import contextlib
import dataclasses
import itertools
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxtag import datasets
from jaxtag.config.schema import Config
from jaxtag.data import pipeline, sources
from jaxtag.datasets import published_sizes
from jaxtag.distributed import coordination
from jaxtag.distributed import mesh as meshes
from jaxtag.perf.aot import lower
from jaxtag.perf.profile.recompilation import Recompilations
from jaxtag.training import loop, vocabulary
from jaxtag.training import setup as experiments
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.setup import TrainSetup
from jaxtag.training.train_state import TrainState

_AHEAD = 2  # steps under way at once, as in the loop
_WARM = 2  # steps before the clock starts


@dataclasses.dataclass(frozen=True)
class Step:
    """Seconds of one step; their sum is the time from the end of the step before to its own end.

    Attributes:
      data: no step was under way, since its batch was not there yet.
      host: no step was under way, for other reasons: placing the batch, starting the step.
      device: the step was under way on the devices.
    """

    data: float
    host: float
    device: float

    @property
    def total(self) -> float:
        return self.data + self.host + self.device


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Seconds of a save: `blocked` the loop waits, `written` until it is on disk; every N steps."""

    blocked: float
    written: float
    every: int


@dataclasses.dataclass(frozen=True)
class Job:
    """A configuration with what it is run on.

    Attributes:
      words: tokens, classes or tags.
      examples: of the training split.
      batches: endless, of this process; numpy arrays.
      shapes: of a batch on the devices.
    """

    experiment: TrainSetup
    words: int
    examples: int
    batches: Iterator[dict[str, np.ndarray]]
    shapes: dict[str, jax.ShapeDtypeStruct]

    def close(self) -> None:
        """Stops what reads ahead."""
        if isinstance(self.batches, pipeline.BatchIterator):
            self.batches.close()


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of a job.

    Attributes:
      compiled: the step's program, and `before` its text before optimisation.
      steps: without the profiler; `traced`: with it.
      recompilations: as `Recompilations.found`.
    """

    compiled: jax.stages.Compiled
    before: str
    lower_seconds: float
    compile_seconds: float
    steps: list[Step]
    traced: list[Step]
    checkpoint: Checkpoint
    recompilations: list[dict[str, Any]]


def prepare(config: Config, folder: Path, random: bool) -> Job:
    """Plans the run and opens its input.

    Args:
      folder: for what the vocabulary is kept in.
      random: one made-up batch again and again; the data set need not be there, unless it is a
        user's own.

    Raises:
      UserError: the data set is not there, or the configuration does not fit the devices.
    """
    if random and config.data.dataset in datasets.NAMES:
        words, examples = published_sizes.words(config), published_sizes.examples(config)
    else:
        vocabulary.ensure_data(config)
        known = vocabulary.ensure(config, folder)
        source = sources.open_split(
            config.data.dataset, config.data.train_split, config.data.data_dir
        )
        words, examples = len(known), len(source)
    experiment = experiments.build(config, words, examples)
    shapes = lower.batch_of(config, words, experiment.mesh)
    if random:
        batches = itertools.repeat(_made_up(shapes, experiment.mesh))
    else:
        batches = loop.training_batches(config, source, known)()
        batches.start_prefetch()
    return Job(experiment, words, examples, batches, shapes)


def measure(job: Job, steps: int, traced: int, folder: Path) -> Measured:
    """Compiles the step, times a checkpoint and `steps` steps, and traces `traced` more.

    Args:
      folder: gets the folder `trace`, of the first process.
    """
    experiment = job.experiment
    began = time.perf_counter()
    lowered = experiment.step.lower(experiment.shapes, job.shapes)
    before, lowered_at = lowered.as_text("hlo", debug_info=True), time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - lowered_at
    state = experiment.initialize()
    checkpoint = _checkpoint(experiment, state, folder)
    with Recompilations("on_mesh", state, job.shapes) as recompilations:
        state, _ = _run(job, state, _WARM, recompilations)
        state, timed = _run(job, state, steps, recompilations)
        with _trace(folder / "trace"):
            state, traced_steps = _run(job, state, traced, recompilations)
    return Measured(
        compiled,
        before,
        lowered_at - began,
        compile_seconds,
        timed,
        traced_steps,
        checkpoint,
        recompilations.found,
    )


def _trace(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Within it the profiler records what the first process's devices do."""
    if jax.process_index() > 0:
        return contextlib.nullcontext()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions: large, and slow to record
    shutil.rmtree(folder, ignore_errors=True)
    return jax.profiler.trace(folder, profiler_options=options)


def _run(
    job: Job, state: TrainState, count: int, recompilations: Recompilations
) -> tuple[TrainState, list[Step]]:
    """Runs steps in the order of the loop; returns the last state and their times."""
    experiment = job.experiment
    starts: list[tuple[float, float, float]] = []  # drawing began, batch there, step started
    ends: list[Future[float]] = []
    begin = time.perf_counter()
    with ThreadPoolExecutor(1) as watch:
        for number in range(count):
            drawing = time.perf_counter()
            batch = next(job.batches)
            drawn = time.perf_counter()
            batch = meshes.make_global_batch(batch, experiment.mesh)
            starts.append((drawing, drawn, time.perf_counter()))
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                arguments, (state, metrics) = (state, batch), experiment.step(state, batch)
            recompilations.called(*arguments)
            ends.append(watch.submit(_end_of, metrics["loss"]))
            if number >= _AHEAD:
                ends[number - _AHEAD].result()
        ended = [end.result() for end in ends]
    jax.block_until_ready(state)
    return state, [_split(*times) for times in zip([begin, *ended], starts, ended, strict=False)]


def _end_of(output: jax.Array) -> float:
    jax.block_until_ready(output)
    return time.perf_counter()


def _split(before: float, start: tuple[float, float, float], end: float) -> Step:
    """Args: when the step before ended; drawing, batch there, step started; its own end."""
    drawing, drawn, started = start
    data = max(0.0, drawn - max(before, drawing))
    idle = max(0.0, started - before)
    return Step(data=data, host=idle - data, device=end - max(started, before))


def _checkpoint(experiment: TrainSetup, state: TrainState, folder: Path) -> Checkpoint:
    """Times the second of two saves: the first one starts Orbax's threads."""
    place = folder / "checkpoint"
    _remove(place)
    with Checkpoints(place, keep_last=1) as checkpoints:
        for number in range(2):
            checkpoints.wait()
            began = time.perf_counter()
            checkpoints.save(number, state)
            blocked = time.perf_counter() - began
        checkpoints.wait()
        written = time.perf_counter() - began
    _remove(place)
    return Checkpoint(blocked, written, experiment.config.checkpoint_every)


def _remove(folder: Path) -> None:
    """By the first process, while the others wait."""
    coordination.run_on_process_zero(lambda: shutil.rmtree(folder, ignore_errors=True))


def _made_up(shapes: dict[str, jax.ShapeDtypeStruct], mesh: Mesh) -> dict[str, np.ndarray]:
    """This process's share of a batch of noise, all of it valid."""
    rng = np.random.default_rng(0)
    made = {}
    for name, item in shapes.items():
        shape = (len(meshes.local_row_indices(mesh, item.shape[0])), *item.shape[1:])
        high = 256 if name == "image" else 2  # a token, class or tag that every vocabulary has
        made[name] = rng.integers(0, high, shape).astype(item.dtype)
    made["mask"][:], made["broken"][:] = 1, False
    return made
