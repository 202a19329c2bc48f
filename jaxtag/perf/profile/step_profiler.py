"""Profiles steps of a training run, on every process, and serves the profiler to others."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from jaxtag.config.schema import Config
from jaxtag.distributed import watchdog
from jaxtag.errors import UserError
from jaxtag.perf import step_inputs
from jaxtag.perf.profile import report
from jaxtag.perf.profile.measure import (
    Job,
    Measurement,
    SaveTime,
    Step,
    completion_time,
    start_trace,
)
from jaxtag.storage.paths import is_store
from jaxtag.training.callbacks import Callback
from jaxtag.training.setup import TrainSetup

_PATIENCE = 10  # times config.hang_timeout, to compile the step once more and write the page


class StepProfiler(Callback):
    """Records the steps of `config.profile_steps`, and writes the page of `jaxtag.profile`.

    Each process has a folder, `WORKDIR/profile/steps-FIRST-LAST/process-K`, of its own devices. The
    time in which no step ran counts as waiting for data. With `config.profiler_port` xprof and
    TensorBoard can capture traces at any time.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[float, Future[float]]] = []  # when a step started, when it ended
        self._began = 0.0

    def on_start(self, setup: TrainSetup, workdir: Path, step: int) -> None:
        self._setup, config = setup, setup.config
        if config.profiler_port is not None:
            jax.profiler.start_server(config.profiler_port)
        if config.profile_steps is not None and is_store(workdir):
            raise UserError("config.profile_steps: the profiler writes to a local --workdir alone")
        # Steps that an earlier process took are not taken again.
        self._steps = _remaining(config, step)
        first, last = self._steps or (0, 0)
        process = f"process-{jax.process_index()}"
        self._folder = workdir / "profile" / f"steps-{first}-{last}" / process
        if self._steps and first == step + 1:
            self._start()

    def on_step(self, step: int, state: Any, metrics: dict[str, Any]) -> None:
        if self._steps is None:
            return
        first, last = self._steps
        if first <= step <= last:
            ended = self._watch.submit(completion_time, metrics["loss"])
            self._pending.append((time.perf_counter(), ended))
        if step == first - 1:
            jax.block_until_ready(metrics)
            self._start()
        if step == last:
            self._finish(state)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._watch = ThreadPoolExecutor(1)
        start_trace(self._folder / "trace")
        self._began = time.perf_counter()

    def _finish(self, state: Any) -> None:
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        steps, previous = [], self._began
        for started, future in self._pending:
            ended = future.result()
            idle = max(0.0, started - previous)
            steps.append(Step(data=idle, host=0.0, device=ended - max(started, previous)))
            previous = ended
        self._watch.shutdown()
        self._steps = None
        config = self._setup.config
        watchdog.expect(config.hang_timeout * _PATIENCE)
        report.write(_job(self._setup), _measurement(self._setup, steps), self._folder)


def _remaining(config: Config, step: int) -> tuple[int, int] | None:
    """The steps to record of a process that goes on from `step`; None where they are past."""
    if config.profile_steps is None or config.profile_steps[1] <= step:
        return None
    first, last = config.profile_steps
    return max(first, step + 1), last


def _job(setup: TrainSetup) -> Job:
    shapes = step_inputs.batch_shapes(setup.task, setup.mesh)
    return Job(setup, step_inputs.num_train_examples(setup.config), iter(()), shapes)


def _measurement(setup: TrainSetup, steps: list[Step]) -> Measurement:
    """The program is compiled once more: JAX does not hand out the one that runs."""
    began = time.perf_counter()
    shapes = step_inputs.batch_shapes(setup.task, setup.mesh)
    lowered = setup.step.lower(setup.shapes, shapes)
    unoptimized, lowered_at = lowered.as_text("hlo", debug_info=True), time.perf_counter()
    compiled = lowered.compile()
    return Measurement(
        compiled=compiled,
        unoptimized=unoptimized,
        lower_seconds=lowered_at - began,
        compile_seconds=time.perf_counter() - lowered_at,
        steps=steps,
        traced_steps=steps,
        checkpoint=SaveTime(0.0, 0.0, setup.config.checkpoint_every),
        recompilations=[],
    )
