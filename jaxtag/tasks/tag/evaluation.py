"""Evaluation of a tagger: rankings, thresholded tags, calibration, and each tag by itself."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.data import sources
from jaxtag.data.labels import LabelNames
from jaxtag.metrics import multilabel
from jaxtag.tasks.base import Data, Evaluation, EvaluationData, Sample, Scores
from jaxtag.tasks.tag.calibration import TagCalibration, calibration_path
from jaxtag.tasks.tag.threshold_selection import cross_validated_f1


class TagEvaluation(Evaluation):
    """The evaluation of a tagger on N images with T tags (metrics: see `metrics.multilabel`).

    Where the thresholds were fitted on these very images, `micro_f1` and `macro_f1` are higher
    than on others; `cross_validated_micro_f1` and `cross_validated_macro_f1` are not.

    Attributes:
        rows: `scores` float64 [N, T], calibrated; `tags` bool [N, T], present; `known` bool
            [N, T].
        calibration: by which tags are selected.
        fitted: whether it was fitted on these images.
        names: of the tags.
    """

    def __init__(
        self, data: EvaluationData, calibration: TagCalibration, fitted: bool, names: LabelNames
    ):
        super().__init__({}, data)
        self.calibration, self.fitted, self.names = calibration, fitted, names
        self.metrics = self._metrics(np.ones(len(self.index), bool))
        if fitted:
            arrays = (self.rows["scores"], self.rows["tags"], self.rows["known"])
            self.metrics |= cross_validated_f1(*arrays)

    def subset_metrics(self, count: int) -> dict[str, float]:
        subset = self.index < count
        return self.metrics if subset.all() else self._metrics(subset)

    def _metrics(self, subset: np.ndarray) -> dict[str, float]:
        scores, tags, known = (self.rows[name][subset] for name in ("scores", "tags", "known"))
        per_tag = multilabel.per_class_metrics(
            scores, tags, known, np.array(self.calibration.thresholds)
        )
        return {
            **multilabel.ranking_metrics(scores, tags, known),
            **multilabel.threshold_metrics(per_tag),
            "calibration_error": multilabel.calibration_error(scores, tags, known),
            "examples": float(subset.sum()),
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """Tag -> its number of images, its threshold, and its metrics."""
        arrays = (self.rows["scores"], self.rows["tags"], self.rows["known"])
        thresholds = np.array(self.calibration.thresholds)
        columns = {"threshold": thresholds, **multilabel.per_class_metrics(*arrays, thresholds)}
        columns["average_precision"] = np.nan_to_num(multilabel.average_precisions(*arrays))
        return {
            name: {metric: float(column[number]) for metric, column in columns.items()}
            for number, name in enumerate(self.names.names)
        }

    def details(self) -> dict[str, Any]:
        """`per_tag`: tag -> its metrics."""
        return {"per_tag": self.per_class()}

    def samples(self) -> list[Sample]:
        """Each with its selected tags and their scores, and the true tags."""
        names, samples = self.names.names, []
        for position, image in sorted(self.images.items()):
            row = int(np.searchsorted(self.index, position))
            scores = self.rows["scores"][row]
            selected = select_tags(scores, self.calibration)
            text = ", ".join(f"{names[number]} ({scores[number]:.0%})" for number in selected)
            truth = ", ".join(names[n] for n in np.flatnonzero(self.rows["tags"][row]))
            samples.append(Sample(position, image, text, [truth]))
        return samples

    def with_baselines(self, data: Data) -> Scores:
        """The model beside the tags that are most frequent in training, for every image."""
        counts = sources.tag_counts(data.train, self.names)
        frequencies = np.broadcast_to(counts / len(data.train), self.rows["scores"].shape)
        return {
            "model": self.metrics,
            "most frequent tags": multilabel.ranking_metrics(
                frequencies, self.rows["tags"], self.rows["known"]
            ),
        }

    def save_artifacts(self, workdir: Path, step: int) -> None:
        """Writes the calibration where `TagTask.load_artifacts` reads it."""
        if self.fitted:
            self.calibration.save(calibration_path(workdir, step), self.names.names)


def select_tags(
    scores: np.ndarray, calibration: TagCalibration, limit: int | None = None
) -> np.ndarray:
    """Numbers of the tags whose scores [T] reach their thresholds, the likeliest first.

    At most `limit`, and at least the likeliest one.
    """
    order = np.argsort(-scores, kind="stable")
    selected = order[(scores >= np.array(calibration.thresholds))[order]][:limit]
    return selected if len(selected) else order[:1]
