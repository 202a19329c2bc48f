"""Evaluation of embeddings: whether a picture's nearest neighbours share its class, or a tag."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtag.config.schema import Config, label_feature
from jaxtag.data import pipeline, transforms
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.metrics import retrieval
from jaxtag.tasks import eval_batches
from jaxtag.tasks.embed import task as embed

_TOLD = 4  # neighbours of a picture that are shown
_SIDE = 32  # pixels of the pictures whose raw values are compared


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      metrics: name → value (see `retrieval.metrics`).
      index: positions in the split of the pictures that could be read, ascending [N].
      embeddings: of them, float32 [N, D].
      labels: their classes [N], or tags bool [N, T].
      pictures: position in the split → uint8 [S, S, 3], a few of them.
      classes: their names.
      source: the split.
    """

    metrics: dict[str, float]
    index: np.ndarray
    embeddings: np.ndarray
    labels: np.ndarray
    pictures: dict[int, np.ndarray]
    classes: LabelNames
    source: Source

    def part(self, source: Source) -> dict[str, float]:
        """Rankings within the pictures of `source`, the first ones of the split."""
        kept = self.index < len(source)
        if kept.all():
            return self.metrics
        return retrieval.ranking_metrics(self.embeddings[kept], self.labels[kept])

    def shown(self) -> list[tuple[int, np.ndarray, str, list[str]]]:
        """(position, picture, the labels of its nearest neighbours, its own) of a few."""
        indices = sorted(self.pictures)
        places = np.searchsorted(self.index, indices)
        found = []
        count = min(_TOLD, len(self.index) - 1)
        for queries, near in retrieval.neighbours(self.embeddings, count, places):
            for query, others in zip(queries, near, strict=True):
                said = ", ".join(self._words(other) for other in others)
                position = int(self.index[query])
                found.append((position, self.pictures[position], said, [self._words(query)]))
        return found

    def _words(self, place: int) -> str:
        """The class of a picture, or its tags."""
        numbers = np.atleast_1d(self.labels[place])
        numbers = np.flatnonzero(numbers) if self.labels.ndim > 1 else numbers
        return " ".join(self.classes.names[number] for number in numbers)

    def compared(self, config: Config) -> dict[str, dict[str, float]]:
        """The model beside the pictures' raw pixels as vectors."""
        pixels = _pixels(self.source, config)[self.index]
        return {
            "model": self.metrics,
            "raw pixels": retrieval.retrieval_metrics(pixels, self.labels, config.seed),
        }


class EmbeddingEvaluator:
    """Evaluates variables on splits of one data set; compiles once."""

    def __init__(
        self, task: embed.EmbedTask, mesh: jax.sharding.Mesh, config: Config, classes: LabelNames
    ):
        meshes.check_batch(mesh, config.evaluation.batch_size, "config.evaluation.batch_size")
        self._mesh, self._config, self._classes = mesh, config, classes
        self._labels = label_feature(config)
        self._embed = jax.jit(
            meshes.with_mesh(mesh, task.embed), out_shardings=meshes.replicated(mesh)
        )

    def __call__(self, variables: Any, source: Source) -> Evaluation:
        """Evaluates every example of `source` once, on any number of processes."""
        parts: list[tuple[np.ndarray, ...]] = []
        pictures: dict[int, np.ndarray] = {}
        example = embed.example(self._config, self._classes, train=False)
        for batch in eval_batches.of(source, self._config, example, self._mesh):
            arrays = meshes.make_global_batch(batch, self._mesh)
            vectors = jax.device_get(self._embed(variables, arrays["image"]))
            index, mask, label = multihost_utils.process_allgather(
                (arrays["index"], arrays["mask"], arrays[self._labels]), tiled=True
            )
            kept = np.flatnonzero(np.asarray(mask) > 0)
            parts.append((np.asarray(index)[kept], vectors[kept], np.asarray(label)[kept]))
            for row in np.flatnonzero(batch["mask"] > 0):
                if len(pictures) < self._config.evaluation.num_samples_shown:
                    pictures[int(batch["index"][row])] = batch["image"][row]
        index, vectors, labels = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(index)
        index, vectors, labels = index[order], vectors[order], labels[order]
        if labels.ndim > 1:
            labels = labels.astype(bool)
        found = retrieval.retrieval_metrics(vectors, labels, self._config.seed)
        return Evaluation(found, index, vectors, labels, pictures, self._classes, source)


def _pixels(source: Source, config: Config) -> np.ndarray:
    """Every picture of a split in small, float32 [N, pixels], on a scale of 0 to 1."""
    small = pipeline.eval_batches(
        source,
        example=pipeline.ExampleSpec(transforms.Resize(min(_SIDE, config.data.image_size))),
        batch_size=config.evaluation.batch_size,
        workers=config.data.num_workers,
        threads=config.data.num_threads,
    )
    rows = [batch["image"][batch["index"] >= 0] for batch in small]
    return np.concatenate(rows).reshape(len(source), -1).astype(np.float32) / 255
