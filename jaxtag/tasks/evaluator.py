"""Evaluation: runs a task over a split, every example once, on any number of processes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxtag import registry
from jaxtag.data import pipeline
from jaxtag.data.feature_table import with_features
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.distributed import watchdog
from jaxtag.tasks.base import Evaluation, EvaluationData, Scores, Task

_PATIENCE = 10  # times config.hang_timeout: the first batch compiles


class Evaluator:
    """Evaluates variables of a task on splits of a data set; compiles once.

    Calling it returns an `Evaluation`. Functions that `config.evaluation.metrics` names are called
    with the rows of the evaluation, {name: [N, …]}, and return further metrics, {name: value}.
    """

    def __init__(self, task: Task, mesh: Mesh):
        self._task, self._mesh, self._config = task, mesh, task.config
        size = self._config.evaluation.batch_size
        meshes.check_batch(mesh, size, "config.evaluation.batch_size")
        self._step = task.make_evaluation_step(mesh)
        self._metrics = [
            registry.resolve("metric", name, "config.evaluation.metrics")
            for name in self._config.evaluation.metrics
        ]

    def __call__(
        self,
        variables: Any,
        source: Source,
        split: str,
        on_batch: Callable[[], None] | None = None,
    ) -> Evaluation:
        """Evaluates every example of `source` once, on any number of processes.

        Args:
            split: the name of the source.
            on_batch: called on every process before each batch; may raise to end the evaluation.
        """
        sums: dict[str, np.ndarray] = {}
        parts: dict[str, list[np.ndarray]] = {"index": []}
        images: dict[int, np.ndarray] = {}
        key = jax.random.key(self._config.seed)
        for number, batch in enumerate(self._batches(source)):
            if on_batch is not None:
                on_batch()
            arrays = meshes.make_global_batch(batch, self._mesh)
            counts, rows = self._step(variables, arrays, jax.random.fold_in(key, number))
            for name, value in jax.device_get(counts).items():
                sums[name] = sums.get(name, 0) + np.asarray(value, np.float64)
            gathered = _gather({"index": arrays["index"], "mask": arrays["mask"], **rows})
            decoded = np.flatnonzero(gathered.pop("mask") > 0)
            for name, value in gathered.items():
                parts.setdefault(name, []).append(value[decoded])
            keep_images(batch, images, self._config.evaluation.num_samples_shown)
        table = {name: np.concatenate(values) for name, values in parts.items()}
        order = np.argsort(table["index"])
        table = {name: value[order] for name, value in table.items()}
        index = table.pop("index").astype(np.int64)
        data = EvaluationData(sums, table, index, images, source, split)
        evaluation = self._task.evaluate(data)
        for metric in self._metrics:
            evaluation.metrics |= {name: float(v) for name, v in metric(evaluation.rows).items()}
        return evaluation

    def _batches(self, source: Source) -> Iterator[pipeline.Batch]:
        """This process's share of the batches of a split."""
        config = self._config
        batches = pipeline.eval_batches(
            source,
            example=with_features(self._task.example_spec(train=False), source, images=True),
            batch_size=config.evaluation.batch_size,
            rows=meshes.local_row_indices(self._mesh, config.evaluation.batch_size),
            num_workers=config.data.num_workers,
            num_threads=config.data.num_threads,
        )
        with contextlib.closing(batches):
            for batch in batches:
                watchdog.expect(_PATIENCE * config.hang_timeout)
                yield batch


def keep_images(batch: pipeline.Batch, images: dict[int, np.ndarray], limit: int) -> None:
    """Adds images of a batch, uint8 [S, S, 3], by their index, until there are `limit`.

    They are copies: a view would keep the whole batch in memory, and in the shared memory of
    worker processes beyond their end.
    """
    for row in np.flatnonzero(batch["mask"] > 0)[: limit - len(images)]:
        images[int(batch["index"][row])] = batch["image"][row].copy()


def table(scores: Scores) -> str:
    """A readable table: a row for each predictor, a column for each metric."""
    names = list(dict.fromkeys(name for values in scores.values() for name in values))
    lines = [["", *names]]
    for row, values in scores.items():
        lines.append([row, *(f"{values[n]:.3f}" if n in values else "" for n in names)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _gather(arrays: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The global arrays on every process; what each of them holds whole is fetched alone."""
    whole = {name: x for name, x in arrays.items() if x.is_fully_replicated}
    split = {name: x for name, x in arrays.items() if name not in whole}
    gathered = jax.device_get(whole) | multihost_utils.process_allgather(split, tiled=True)
    return {name: np.asarray(gathered[name]) for name in arrays}
