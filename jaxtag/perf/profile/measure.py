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
from jaxtag.data import pipeline
from jaxtag.data.sources import Source
from jaxtag.distributed import coordination
from jaxtag.distributed import mesh as meshes
from jaxtag.perf import step_inputs
from jaxtag.perf.profile.recompilation import Recompilations
from jaxtag.training import loop, run_data
from jaxtag.training.checkpoint import Checkpoints
from jaxtag.training.setup import TrainSetup
from jaxtag.training.train_state import TrainState

_STEPS_AHEAD = 2  # dispatched before their predecessor ends, as in the loop
_WARMUP_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Step:
    """Seconds of one step; their sum is the time from the end of the step before to its own end.

    Attributes:
        data: No step was running, since the batch was not there yet.
        host: No step was running, for other reasons: placing the batch, starting the step.
        device: The step was running on the devices.
    """

    data: float
    host: float
    device: float

    @property
    def total(self) -> float:
        """From the end of the step before to the end of this one."""
        return self.data + self.host + self.device


@dataclasses.dataclass(frozen=True)
class SaveTime:
    """Seconds of saving a checkpoint.

    Attributes:
        blocked: The loop waits.
        written: Until it is on disk.
        every: Steps between two checkpoints.
    """

    blocked: float
    written: float
    every: int


@dataclasses.dataclass(frozen=True)
class Job:
    """A planned run with its input.

    Attributes:
        setup: The run.
        num_examples: Of the training split.
        batches: Endless, of this process; numpy arrays.
        shapes: Of a batch on the devices.
    """

    setup: TrainSetup
    num_examples: int
    batches: Iterator[dict[str, np.ndarray]]
    shapes: dict[str, jax.ShapeDtypeStruct]

    def close(self) -> None:
        """Stops prefetching."""
        if isinstance(self.batches, pipeline.BatchIterator):
            self.batches.close()


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of a job.

    Attributes:
        compiled: The step's program.
        unoptimized: Text of the program before optimization.
        lower_seconds: Tracing and lowering.
        compile_seconds: Compiling.
        steps: Timed without the profiler.
        traced_steps: Timed with it.
        checkpoint: Of a save.
        recompilations: As `Recompilations.records`.
    """

    compiled: jax.stages.Compiled
    unoptimized: str
    lower_seconds: float
    compile_seconds: float
    steps: list[Step]
    traced_steps: list[Step]
    checkpoint: SaveTime
    recompilations: list[dict[str, Any]]


def prepare(config: Config, folder: Path, random: bool) -> Job:
    """Plans the run and opens its input.

    Args:
        config: Of the run.
        folder: Holds the vocabulary.
        random: Repeat one batch of noise; the data set need not be there, unless it is a user's
            own.

    Raises:
        UserError: The data set is not there, or the configuration does not fit the devices.
    """
    source: Source | None = None
    vocabulary: Any
    if random and config.data.dataset in datasets.NAMES:
        vocabulary = range(step_inputs.num_outputs(config))
        num_examples = step_inputs.num_train_examples(config)
    else:
        source = run_data.open_or_prepare(config.data)
        vocabulary = run_data.load_or_build_vocabulary(config, folder, source)
        num_examples = len(source)
    task = run_data.task_class(config)(config, vocabulary)
    setup = TrainSetup.from_config(config, task, num_examples)
    shapes = step_inputs.batch_shapes(task, setup.mesh)
    if random or source is None:
        noise = itertools.repeat(_random_batch(shapes, setup.mesh))
        return Job(setup, num_examples, noise, shapes)
    batches = loop.training_batches(task, source)()
    batches.start_prefetch()
    return Job(setup, num_examples, batches, shapes)


def measure(job: Job, num_steps: int, num_traced: int, folder: Path) -> Measurement:
    """Compiles the step, times a checkpoint and `num_steps` steps, and traces `num_traced` more.

    Args:
        job: To run.
        num_steps: Timed without the profiler.
        num_traced: Recorded by the profiler.
        folder: Gets the folder `trace`, of the first process.
    """
    setup = job.setup
    start = time.perf_counter()
    lowered = setup.step.lower(setup.shapes, job.shapes)
    unoptimized, lowered_at = lowered.as_text("hlo", debug_info=True), time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - lowered_at
    state = setup.initialize()
    checkpoint = _time_save(setup, state, folder)
    with Recompilations("on_mesh", state, job.shapes) as recompilations:
        state, _ = _run(job, state, _WARMUP_STEPS, recompilations)
        state, steps = _run(job, state, num_steps, recompilations)
        with _trace(folder / "trace"):
            state, traced_steps = _run(job, state, num_traced, recompilations)
    return Measurement(
        compiled=compiled,
        unoptimized=unoptimized,
        lower_seconds=lowered_at - start,
        compile_seconds=compile_seconds,
        steps=steps,
        traced_steps=traced_steps,
        checkpoint=checkpoint,
        recompilations=recompilations.records,
    )


@contextlib.contextmanager
def _trace(folder: Path) -> Iterator[None]:
    """Context in which the profiler records what the first process's devices do."""
    if jax.process_index() > 0:
        yield
        return
    start_trace(folder)
    try:
        yield
    finally:
        jax.profiler.stop_trace()


def start_trace(folder: Path) -> None:
    """Starts the profiler, which writes to `folder` when it is stopped."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions: large, and slow to record
    shutil.rmtree(folder, ignore_errors=True)
    jax.profiler.start_trace(folder, profiler_options=options)


def _run(
    job: Job, state: TrainState, count: int, recompilations: Recompilations
) -> tuple[TrainState, list[Step]]:
    """Runs steps in the order of the loop; returns the last state and their times."""
    setup = job.setup
    starts: list[tuple[float, float, float]] = []  # drawing began, batch there, step started
    ends: list[Future[float]] = []
    begin = time.perf_counter()
    with ThreadPoolExecutor(1) as watch:
        for number in range(count):
            drawing = time.perf_counter()
            local_batch = next(job.batches)
            drawn = time.perf_counter()
            batch = meshes.make_global_batch(local_batch, setup.mesh)
            starts.append((drawing, drawn, time.perf_counter()))
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                arguments, (state, metrics) = (state, batch), setup.step(state, batch)
            recompilations.record_call(*arguments)
            ends.append(watch.submit(completion_time, metrics["loss"]))
            if number >= _STEPS_AHEAD:
                ends[number - _STEPS_AHEAD].result()
        end_times = [end.result() for end in ends]
    jax.block_until_ready(state)
    previous = [begin, *end_times]
    return state, [_split(*times) for times in zip(previous, starts, end_times, strict=False)]


def completion_time(output: Any) -> float:
    """Waits for an array, and returns the time at which it was there (time.perf_counter())."""
    jax.block_until_ready(output)
    return time.perf_counter()


def _split(previous_end: float, start: tuple[float, float, float], end: float) -> Step:
    """Splits the time of a step.

    Args:
        previous_end: When the step before ended.
        start: When drawing the batch began, when it was there, when the step started.
        end: When the step ended.
    """
    drawing, drawn, started = start
    data = max(0.0, drawn - max(previous_end, drawing))
    idle = max(0.0, started - previous_end)
    return Step(data=data, host=idle - data, device=end - max(started, previous_end))


def _time_save(setup: TrainSetup, state: TrainState, folder: Path) -> SaveTime:
    """Times the second of two saves: the first one starts Orbax's threads."""
    directory = folder / "checkpoint"
    _remove(directory)
    with Checkpoints(directory, keep_last=1) as checkpoints:
        for number in range(2):
            checkpoints.wait()
            start = time.perf_counter()
            checkpoints.save(number, state)
            blocked = time.perf_counter() - start
        checkpoints.wait()
        written = time.perf_counter() - start
    _remove(directory)
    return SaveTime(blocked, written, setup.config.checkpoint_every)


def _remove(folder: Path) -> None:
    """Removes it in the first process, while the others wait."""
    coordination.run_on_process_zero(lambda: shutil.rmtree(folder, ignore_errors=True))


def _random_batch(shapes: dict[str, jax.ShapeDtypeStruct], mesh: Mesh) -> dict[str, np.ndarray]:
    """This process's rows of a batch of noise, all of them valid."""
    rng = np.random.default_rng(0)
    batch = {}
    for name, item in shapes.items():
        shape = (len(meshes.local_row_indices(mesh, item.shape[0])), *item.shape[1:])
        high = 256 if name == "image" else 2  # a token, class or tag that every vocabulary has
        batch[name] = rng.integers(0, high, shape).astype(item.dtype)
    batch["mask"][:], batch["broken"][:] = 1, False
    return batch
