"""Evaluation of a classifier: accuracy, calibration, and the confusion between classes."""

from typing import Any

import numpy as np

from jaxtag.data.labels import LabelNames
from jaxtag.tasks.base import Data, Evaluation, EvaluationData, Sample, Scores

_MAX_CONFUSION = 1000  # classes


class ClassEvaluation(Evaluation):
    """The evaluation of a classifier; metrics are fractions of 1.

    Attributes:
        rows: `prediction` and `label` int [N], `confidence` float [N].
        confusion: int64 [C, C]: images of a class (row) taken for a class (column).
        classes: their names.
    """

    def __init__(self, metrics: dict[str, float], data: EvaluationData, classes: LabelNames):
        super().__init__(metrics, data)
        self.confusion, self.classes = data.sums["confusion"].astype(np.int64), classes

    def subset_metrics(self, count: int) -> dict[str, float]:
        subset = self.index < count
        correct = (self.rows["prediction"] == self.rows["label"])[subset].sum()
        return {"top1": float(correct / max(subset.sum(), 1))}

    def per_class(self) -> dict[str, dict[str, float]]:
        """Class -> its number of images, its precision, recall and F1; 0 where undefined."""
        correct = np.diag(self.confusion)
        images, predicted = self.confusion.sum(1), self.confusion.sum(0)
        columns = {
            "images": images,
            "precision": correct / np.maximum(predicted, 1),
            "recall": correct / np.maximum(images, 1),
            "f1": 2 * correct / np.maximum(images + predicted, 1),
        }
        return {
            name: {metric: float(column[number]) for metric, column in columns.items()}
            for number, name in enumerate(self.classes.names)
        }

    def details(self) -> dict[str, Any]:
        """`per_class`, and `confusion`: `counts` by class (row) and prediction (column).

        Of more classes than `_MAX_CONFUSION` the matrix would fill gigabytes, and holds the pairs
        that occur instead: `pairs`, each [class, prediction, images].
        """
        matrix = self.confusion
        confusion: dict[str, Any] = {"classes": list(self.classes.names)}
        if len(matrix) <= _MAX_CONFUSION:
            confusion["counts"] = matrix.tolist()
        else:
            rows, columns = np.nonzero(matrix)
            pairs = np.stack([rows, columns, matrix[rows, columns]], 1)
            confusion["pairs"] = pairs.tolist()
        return {"per_class": self.per_class(), "confusion": confusion}

    def samples(self) -> list[Sample]:
        """Each with the predicted class and its probability, and the true class."""
        names, samples = self.classes.names, []
        for position, image in sorted(self.images.items()):
            row = int(np.searchsorted(self.index, position))
            prediction, label = (int(self.rows[name][row]) for name in ("prediction", "label"))
            text = f"{names[prediction]} ({self.rows['confidence'][row]:.0%})"
            samples.append(Sample(position, image, text, [names[label]]))
        return samples

    def with_baselines(self, data: Data) -> Scores:
        """The model beside the most frequent class of the split."""
        del data
        frequency = self.confusion.sum(1)
        return {
            "model": self.metrics,
            "most frequent class": {"top1": float(frequency.max() / max(frequency.sum(), 1))},
        }


def classification_metrics(sums: dict[str, Any]) -> dict[str, float]:
    """Metrics from the sums of `ClassifyTask.score`.

    calibration_error: the mean gap between confidence and accuracy over 15 equal bins of the
    confidence, weighted by their counts (Guo et al. 2017, arXiv:1706.04599, section 2).
    """
    count = max(float(sums["count"]), 1e-9)
    _, confidence, correct = sums["bins"]
    metrics = {name: float(sums[name]) / count for name in ("top1", "top5", "cross_entropy")}
    metrics["calibration_error"] = float(abs(confidence - correct).sum()) / count
    metrics["examples"] = float(sums["count"])
    return metrics
