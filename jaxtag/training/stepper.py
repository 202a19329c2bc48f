"""Draws batches and takes training steps, and writes what they gave and what they cost."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax

from jaxtag.data import pipeline
from jaxtag.distributed import mesh as meshes
from jaxtag.training import example_losses
from jaxtag.training.input_monitor import InputMonitor
from jaxtag.training.log_window import LogWindow
from jaxtag.training.metric_writer import MetricWriter
from jaxtag.training.setup import TrainSetup
from jaxtag.training.timer import StartupTimer, StepTimer
from jaxtag.training.train_state import TrainState

_ROLLOUT = 1  # the stream of random numbers that a step's rollout draws from


class Stepper:
    """Takes the steps of a run.

    Args:
        setup: of the run.
        batches: starts the training batches from the first on; a step that fails is described with
            them.
        iterator: the training batches, at the run's place.
        rollout: what the task makes of a batch before the step, such as samples and their rewards.
        writer: of metrics.
        startup: where the time before the first step went.
    """

    def __init__(
        self,
        setup: TrainSetup,
        batches: Callable[[], pipeline.BatchIterator],
        iterator: pipeline.BatchIterator,
        rollout: Callable[..., Any] | None,
        writer: MetricWriter,
        startup: StartupTimer,
    ):
        config = setup.config
        self._setup, self._batches, self._iterator = setup, batches, iterator
        self._rollout, self._writer = rollout, writer
        self._window = LogWindow(config)
        self._timer = StepTimer(startup, writer.write_text)
        self._input_monitor = InputMonitor(config.data, iterator, writer.write_text)

    def take(self, state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """Draws a batch and takes the step behind `step`; returns (state, outputs of the step)."""
        began = time.perf_counter()
        batch = next(self._iterator)
        self._timer.drawn(began)
        arrays = meshes.make_global_batch(batch, self._setup.mesh)
        if self._rollout is not None:
            key = jax.random.fold_in(jax.random.fold_in(state.key, step), _ROLLOUT)
            arrays = self._rollout(state.variables, arrays, key)
        state, outputs = self._setup.step(state, arrays)
        self._timer.dispatched(outputs["loss"])
        self._window.add(outputs)
        return state, outputs

    def log(self, state: TrainState, step: int) -> None:
        """Writes the means of the steps since the last call; waits for the last of them.

        Raises:
            UserError: gradients are not finite, or too many images are broken.
        """
        describe = functools.partial(
            example_losses.describe_step, self._setup, state, self._batches
        )
        scalars = self._window.read(step, self._timer, describe)
        self._writer.write_scalars(step, "train", scalars)
        self._input_monitor.update(scalars)
        self._timer.reset()

    def reset_timer(self) -> None:
        """What passed since the last step does not count as steps."""
        self._timer.reset()

    def close(self) -> None:
        """Ends the timer and the workers that draw batches."""
        self._timer.close()
        self._iterator.close()
