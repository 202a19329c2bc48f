"""The loss of each example of one training step: finds the records, or the host, that spoil it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtag.data import pipeline
from jaxtag.distributed import mesh as meshes
from jaxtag.distributed import watchdog
from jaxtag.tasks.base import Batch
from jaxtag.training import train_step
from jaxtag.training.setup import TrainSetup
from jaxtag.training.train_state import TrainState

_MAX_LISTED = 16  # records of a process in a message
_PATIENCE = 10  # times config.hang_timeout: it compiles


@dataclasses.dataclass(frozen=True)
class ExampleLosses:
    """One training step, by the rows of its global batch.

    Attributes:
        index: int64 [B], the records.
        process: int64 [B], the process that held each row.
        losses: float32 [B]; of a task whose loss compares the whole batch float32 [1].
        weights: Of the losses in that of the step, in the same shape.
    """

    index: np.ndarray
    process: np.ndarray
    losses: np.ndarray
    weights: np.ndarray

    @property
    def nonfinite_rows(self) -> np.ndarray:
        """The rows whose loss is not finite; all of them where the batch's loss is not."""
        return np.flatnonzero(~np.isfinite(np.broadcast_to(self.losses, self.index.shape)))

    def describe_nonfinite(self) -> str:
        """Which losses are not finite, as text: how many, of which processes and records."""
        count, rows = len(self.index), self.nonfinite_rows
        if not len(rows):
            return f"the loss of each of the {count} examples is finite, but not the gradient"
        records = "; ".join(
            f"process {process}: {_listed(self.index[rows[self.process[rows] == process]])}"
            for process in np.unique(self.process[rows])
        )
        return f"the loss of {len(rows)} of {count} examples is not finite, records of {records}"


def example_losses(setup: TrainSetup, state: TrainState, batch: Batch) -> ExampleLosses:
    """Computes the losses that `setup.step(state, batch)` sums, with the same random numbers.

    Args:
        setup: Of the run.
        state: Before the step.
        batch: Global arrays.
    """
    parts = setup.config.optimizer.grad_accum_steps

    def compute(state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(state.key, state.step)
        variables = {"params": state.params, **state.collections}

        def part(batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            output = setup.task.loss(variables, batch, key)
            return output.loss / jnp.maximum(output.weight, 1e-8), output.weight

        if parts == 1:
            return part(batch, key)
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(parts))
        small = jax.tree.map(lambda x: train_step.split_batch(x, parts), batch)
        by_part = jax.lax.map(lambda inputs: part(*inputs), (small, keys))
        losses, weights = (jnp.swapaxes(values, 0, 1).reshape(-1) for values in by_part)
        return losses, weights

    replicated = meshes.replicated(setup.mesh)
    run = jax.jit(meshes.with_mesh(setup.mesh, compute), out_shardings=replicated)
    gather = jax.jit(lambda rows: rows, out_shardings=replicated)
    rows_here = meshes.local_row_indices(setup.mesh, setup.config.batch_size)
    process = np.full(len(rows_here), jax.process_index(), np.int32)
    rows = {
        "index": batch["index"],
        **meshes.make_global_batch({"process": process}, setup.mesh),
    }
    rows = jax.device_get(gather(rows))
    losses, weights = (np.atleast_1d(values) for values in jax.device_get(run(state, batch)))
    return ExampleLosses(rows["index"], rows["process"], losses, weights)


def make_batch(
    setup: TrainSetup, batches: Callable[[], pipeline.BatchIterator], step: int
) -> Batch:
    """The global batch of a step."""
    iterator = batches()
    iterator.set_state({"batches": step})
    local = next(iterator)
    iterator.close()
    return meshes.make_global_batch(local, setup.mesh)


def describe_step(
    setup: TrainSetup, state: TrainState, batches: Callable[[], pipeline.BatchIterator], step: int
) -> str:
    """Which records of which process spoiled `step`, of a run whose state has not changed since.

    To be called on every process.
    """
    watchdog.expect(_PATIENCE * setup.config.hang_timeout)
    batch = make_batch(setup, batches, step)
    return example_losses(setup, state.replace(step=np.int32(step)), batch).describe_nonfinite()


def _listed(records: Any) -> str:
    more = f" and {len(records) - _MAX_LISTED} more" if len(records) > _MAX_LISTED else ""
    return ", ".join(map(str, records[:_MAX_LISTED])) + more
