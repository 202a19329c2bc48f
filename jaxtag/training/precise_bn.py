"""Batch norm's moments for averaged parameters, computed for them instead of averaged with them.

An average of parameters sees other activations than any of the parameters that it is of, so that
the average of their moments is off. These moments are of the training pictures as the averaged
model sees them ("precise" moments, Wu and Johnson 2021, arXiv:2105.07576, section 3).
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp

from jaxtag.data import pipeline
from jaxtag.distributed import mesh as meshes
from jaxtag.kernels import batch_norm
from jaxtag.tasks.base import Task
from jaxtag.training.train_state import TrainState

STATISTICS = "batch_stats"


def make_bn_recalibration(
    task: Task, mesh: jax.sharding.Mesh, batches: Callable[[], pipeline.BatchIterator], count: int
) -> Callable[[TrainState], TrainState]:
    """A function that gives a state whose average has moments of its own.

    Args:
      batches: starts an iterator over the training pictures, the same each time.
      count: of batches that the moments are computed from; with 0, without an average or without
        batch norm in the model a state stays as it is.
    """

    def find(variables: Any, batch: Any, key: jax.Array) -> Any:
        *_, changed = task.loss({**variables, batch_norm.MOMENTS: {}}, batch, key)
        return changed[batch_norm.MOMENTS]

    find = jax.jit(meshes.with_mesh(mesh, find), out_shardings=meshes.replicated(mesh))

    def refresh(state: TrainState) -> TrainState:
        if not count or state.ema is None or STATISTICS not in state.collections:
            return state
        iterator, found = batches(), []
        for number, batch in enumerate(islice(iterator, count)):
            key = jax.random.fold_in(state.key, number)
            arrays = meshes.make_global_batch(batch, mesh)
            found.append(find(state.evaluation_variables, arrays, key))
        iterator.close()
        old = state.ema["collections"]
        places = jax.tree.map(lambda leaf: leaf.sharding, old[STATISTICS])
        new = jax.jit(combine_moments, out_shardings=places)(found)
        return state.replace(ema={**state.ema, "collections": {**old, STATISTICS: new}})

    return refresh


def combine_moments(found: list[Any]) -> Any:
    """The moments of all batches from those of each, trees of {"mean": [C], "var": [C]}."""

    def is_norm(tree: Any) -> bool:
        return set(tree) == {"mean", "var"}

    def population(tree: dict[str, jax.Array]) -> dict[str, jax.Array]:
        mean, variance = batch_norm.population(tree["mean"], tree["var"])
        return {"mean": mean, "var": variance}

    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *found)
    return jax.tree.map(population, stacked, is_leaf=is_norm)
