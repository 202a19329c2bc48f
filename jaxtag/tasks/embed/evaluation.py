"""Evaluation of embeddings: whether an image's nearest neighbors share its class, or a tag."""

import numpy as np

from jaxtag.config.schema import Config
from jaxtag.data import pipeline, transforms
from jaxtag.data.labels import LabelNames
from jaxtag.data.sources import Source
from jaxtag.metrics import retrieval
from jaxtag.tasks.base import Data, Evaluation, EvaluationData, Sample, Scores

_NEIGHBORS_SHOWN = 4
_SIDE = 32  # pixels of the images whose raw values are the baseline


class EmbeddingEvaluation(Evaluation):
    """The evaluation of embeddings (metrics: see `metrics.retrieval`).

    Attributes:
        rows: `embedding` float32 [N, D]; `label` int [N], classes, or bool [N, T], tags.
    """

    def __init__(
        self, metrics: dict[str, float], data: EvaluationData, config: Config, names: LabelNames
    ):
        super().__init__(metrics, data)
        self._config, self._names = config, names.names

    def subset_metrics(self, count: int) -> dict[str, float]:
        subset = self.index < count
        if subset.all():
            return self.metrics
        return retrieval.ranking_metrics(self.rows["embedding"][subset], self.rows["label"][subset])

    def samples(self) -> list[Sample]:
        """Each with the labels of its nearest neighbors, and its own."""
        rows = np.searchsorted(self.index, sorted(self.images))
        count, samples = min(_NEIGHBORS_SHOWN, len(self.index) - 1), []
        for queries, near in retrieval.nearest_neighbors(self.rows["embedding"], count, rows):
            for query, others in zip(queries, near, strict=True):
                labels = ", ".join(self._label(other) for other in others)
                position = int(self.index[query])
                image = self.images[position]
                samples.append(Sample(position, image, labels, [self._label(query)]))
        return samples

    def with_baselines(self, data: Data) -> Scores:
        """The model beside the images' raw pixels as vectors."""
        del data
        pixels = _pixels(self.source, self._config)[self.index]
        scores = retrieval.retrieval_metrics(pixels, self.rows["label"], self._config.seed)
        return {"model": self.metrics, "raw pixels": scores}

    def _label(self, row: int) -> str:
        """The class of an image, or its tags."""
        label = self.rows["label"][row]
        numbers = np.flatnonzero(label) if self.rows["label"].ndim > 1 else np.atleast_1d(label)
        return " ".join(self._names[number] for number in numbers)


def _pixels(source: Source, config: Config) -> np.ndarray:
    """Every image of a split at low resolution, float32 [N, pixels], on a scale of 0 to 1."""
    batches = pipeline.eval_batches(
        source,
        example=pipeline.ExampleSpec(transforms.Resize(min(_SIDE, config.data.image_size))),
        batch_size=config.evaluation.batch_size,
        num_workers=config.data.num_workers,
        num_threads=config.data.num_threads,
    )
    rows = [batch["image"][batch["index"] >= 0] for batch in batches]
    return np.concatenate(rows).reshape(len(source), -1).astype(np.float32) / 255
