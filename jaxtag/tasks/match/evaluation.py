"""Evaluation of image and text embeddings: retrieval of texts by images and of images by texts."""

from typing import Any

import numpy as np

from jaxtag.data import sources
from jaxtag.metrics.image_text import image_text_metrics
from jaxtag.tasks.base import Data, Evaluation, Sample, Scores

_RECALLS = ("recall@1", "recall@5", "recall@10")


class MatchEvaluation(Evaluation):
    """The evaluation of image and text embeddings (metrics: see `match_metrics`).

    Attributes:
        rows: `image_embedding` float32 [N, D]; `text_embedding` float32 [N, K, D] of the captions
            of each image; `has_text` bool [N, K], which of them there are.
    """

    def subset_metrics(self, count: int) -> dict[str, float]:
        subset = self.index < count
        if subset.all():
            return self.metrics
        return match_metrics({name: rows[subset] for name, rows in self.rows.items()})

    def samples(self) -> list[Sample]:
        """Each with the text that is nearest to its image, of all images, and its own texts."""
        captions = list(sources.iter_captions(self.source))
        has_text, vectors = self.rows["has_text"], self.rows["text_embedding"]
        image_of_text, number = np.nonzero(has_text)
        samples = []
        for row in np.searchsorted(self.index, sorted(self.images)):
            nearest = int((vectors[has_text] @ self.rows["image_embedding"][row]).argmax())
            position = int(self.index[row])
            text = captions[int(self.index[image_of_text[nearest]])][int(number[nearest])]
            image = self.images[position]
            samples.append(Sample(position, image, text, list(captions[position])))
        return samples

    def predictions(self) -> dict[str, Any]:
        names = ("image_embedding", "text_embedding")
        return {name: self.rows[name] for name in names}

    def with_baselines(self, data: Data) -> Scores:
        """The model beside its own vectors, each image with the texts of the next one."""
        del data
        rolled = {**self.rows, "image_embedding": np.roll(self.rows["image_embedding"], 1, axis=0)}
        return {"model": self.metrics, "texts of another image": match_metrics(rolled)}


def match_metrics(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """`image_text_metrics` of the rows of an evaluation.

    Beside them are `mean_recall`, the mean of the six recalls, and `examples`, the images.
    """
    has_text = rows["has_text"]
    image_of_text = np.nonzero(has_text)[0]
    text = rows["text_embedding"][has_text]
    metrics = image_text_metrics(rows["image_embedding"], text, image_of_text)
    recalls = [value for name, value in metrics.items() if name.endswith(_RECALLS)]
    return {
        "mean_recall": float(np.mean(recalls)),
        **metrics,
        "examples": float(len(has_text)),
    }
