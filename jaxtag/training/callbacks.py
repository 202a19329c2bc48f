"""Callbacks of a training run, and early stopping."""

from pathlib import Path
from typing import Any

from jaxtag import registry
from jaxtag.config.schema import Config
from jaxtag.tasks.base import Evaluation
from jaxtag.training.setup import TrainSetup

# By import path: what measures imports what trains.
_STEP_PROFILER = "jaxtag.perf.profile.step_profiler:StepProfiler"


class Callback:
    """Called on every process; every method may be left out.

    `config.callbacks` lists classes as `package.module:Name`; `jaxtag.fit` takes objects as well.
    An exception ends the run.
    """

    def on_start(self, setup: TrainSetup, workdir: Path, step: int) -> None:
        """Before the first step of this process; `step` is the one from which it goes on."""

    def on_step(self, step: int, state: Any, metrics: dict[str, Any]) -> None:
        """After each step is dispatched. `metrics` holds (sum, count) on the devices: reading
        them waits for the step."""

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """After each evaluation."""

    def on_checkpoint(self, step: int) -> None:
        """After each save has begun; it is written in the background."""


def from_config(config: Config) -> list[Callback]:
    """Those that `config.callbacks` names, and the profiler of steps where it is asked for."""
    names = [*config.callbacks]
    if config.profile_steps is not None or config.profiler_port is not None:
        names.append(_STEP_PROFILER)
    return [registry.resolve("callback", name, "config.callbacks")() for name in names]


class EarlyStopping:
    """Ends a run after `patience` evaluations without a better metric.

    Args:
        patience: evaluations; None never stops.
        history: the metric at the evaluations before this process started.
    """

    def __init__(self, patience: int | None, history: list[float]):
        self._patience = patience
        self._best, self._since = float("-inf"), 0
        for value in history:
            self.update(value)

    def update(self, value: float | None) -> bool:
        """Takes the metric of an evaluation (higher is better); whether the run should stop."""
        if value is not None and value > self._best:
            self._best, self._since = value, 0
        else:
            self._since += 1
        return self.should_stop

    @property
    def should_stop(self) -> bool:
        return self._patience is not None and self._since >= self._patience
