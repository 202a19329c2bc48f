"""Precise batch norm: moments computed for averaged parameters instead of averaged with them.

An average of parameters sees other activations than any of the parameters that it averages, so the
average of their moments is off. These moments are those of the training images under the averaged
model ("precise" moments, Wu and Johnson 2021, arXiv:2105.07576, section 3).
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxtag.data import pipeline
from jaxtag.distributed.mesh import make_global_batch, replicated, with_mesh
from jaxtag.kernels import batch_norm
from jaxtag.tasks.base import Task
from jaxtag.training.train_state import TrainState

STATISTICS = "batch_stats"


def make_bn_recalibration(
    task: Task, mesh: Mesh, batches: Callable[[], pipeline.BatchIterator], count: int
) -> Callable[[TrainState], TrainState]:
    """Returns a function from a state to one whose average has moments of its own.

    Args:
        batches: starts an iterator over the training images, the same each time.
        count: batches that the moments are computed from; with 0, without an average or without
            batch norm in the model, a state stays as it is.
    """

    def batch_moments(variables: Any, batch: Any, key: jax.Array) -> Any:
        output = task.loss({**variables, batch_norm.MOMENTS: {}}, batch, key)
        return output.collections[batch_norm.MOMENTS]

    compute = jax.jit(with_mesh(mesh, batch_moments), out_shardings=replicated(mesh))

    def recalibrate(state: TrainState) -> TrainState:
        if not count or state.ema is None or STATISTICS not in state.collections:
            return state
        iterator, moments = batches(), []
        for number, batch in enumerate(islice(iterator, count)):
            key = jax.random.fold_in(state.key, number)
            arrays = make_global_batch(batch, mesh)
            moments.append(compute(state.evaluation_variables, arrays, key))
        iterator.close()
        old = state.ema["collections"]
        shardings = jax.tree.map(lambda leaf: leaf.sharding, old[STATISTICS])
        new = jax.jit(combine_moments, out_shardings=shardings)(moments)
        return state.replace(ema={**state.ema, "collections": {**old, STATISTICS: new}})

    return recalibrate


def combine_moments(moments: list[Any]) -> Any:
    """Combines the moments of batches into those of all, trees of {"mean": [C], "var": [C]}."""

    def is_norm(tree: Any) -> bool:
        return set(tree) == {"mean", "var"}

    def population(tree: dict[str, jax.Array]) -> dict[str, Any]:
        mean, variance = batch_norm.population(tree["mean"], tree["var"])
        return {"mean": mean, "var": variance}

    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *moments)
    return jax.tree.map(population, stacked, is_leaf=is_norm)
