"""Rows of images by models, a tag index or both."""

import dataclasses
import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxtag.config import serialization
from jaxtag.inference.predictor import Predictor
from jaxtag.inference.share import Share
from jaxtag.models.text_classifier import TextClassifier
from jaxtag.tag_index.predict import IndexPredictor, merge_predictions
from jaxtag.tasks.base import Row

_INDEX_TAGS = 5  # of an index alone
_MERGED_TAGS = 30  # of an index beside a model


@dataclasses.dataclass(frozen=True)
class Annotator:
    """Makes the row of each image: `file`, then `tags`, `caption`, …, or its `error`.

    Attributes:
        models: their rows are merged: the tags of all, each with its highest score.
        index: gives tags of its own, or beside those of the models.
        top_k: tags of an image, whatever their scores; None: those that reach their thresholds.
    """

    models: Sequence[Predictor]
    index: IndexPredictor | None = None
    top_k: int | None = None

    @property
    def selects_tags(self) -> bool:
        """Whether thresholds have selected the tags of a row already."""
        return any(model.task.selects_tags for model in self.models)

    @property
    def tags(self) -> list[str]:
        """All tags of the models; those of an index may grow, and are not among them."""
        return [tag for model in self.models for tag in getattr(model.vocabulary, "names", ())]

    @property
    def settings(self) -> dict[str, Any]:
        """What rows depend on, as JSON values."""
        settings: dict[str, Any] = {"--top_k": "all" if self.top_k == sys.maxsize else self.top_k}
        if self.index is not None:
            settings["--index"] = str(self.index.folder.resolve())
        for number, model in enumerate(self.models):
            config = serialization.to_dict(model.config)
            settings[f"model {number}"] = [model.reference, f"step {model.step}"]
            settings[f"--config.task of model {number}"] = config["task"]
            settings[f"--config.data.image_size of model {number}"] = config["data"]["image_size"]
            if isinstance(model.task.model, TextClassifier):
                settings[f"words of model {number}"] = _digest(model)
        return settings

    def block_size(self, num_images: int) -> int:
        """The smallest number of images that is whole batches of each model and of the index."""
        sizes = [model.batch_size(num_images) for model in self.models]
        if self.index is not None:
            sizes.append(self.index.extractor.batch_size)
        return math.lcm(*sizes)

    def rows(self, names: Sequence[Any], start: int = 0) -> Iterator[Row]:
        """The rows of the images from `start` on, in order.

        Raises:
            UsageError: at once, where the settings of decoding do not fit a model.
        """
        first = start // self.block_size(len(names)) * self.block_size(len(names))
        rows = self.share_rows(names, Share(start=first))
        for _ in range(start - first):  # of a batch that an earlier run had begun
            next(rows)
        return rows

    def share_rows(self, names: Sequence[Any], share: Share) -> Iterator[Row]:
        """The rows of a share of the images, in order."""
        if not self.models:
            assert self.index is not None
            return self.index.predict_rows(names, self.top_k or _INDEX_TAGS, share)
        rows = _merged([model.predict_rows(names, self.top_k, share) for model in self.models])
        if self.index is None:
            return rows
        max_tags = self.top_k or _MERGED_TAGS
        neighbors = self.index.predict_rows(names, max_tags, share)
        return merge_predictions(rows, neighbors, set(self.tags), max_tags)


def _digest(model: Predictor) -> str:
    """Tells tags that are texts, and their calibration, from others."""
    digest = hashlib.sha256(np.asarray(model.variables["params"]["class_embeddings"]).tobytes())
    digest.update(repr((model.vocabulary.names, getattr(model.task, "calibration", None))).encode())
    return digest.hexdigest()[:16]


def _merged(results: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """The rows of several models as one: all tags, each with its highest score; other fields."""
    if len(results) == 1:
        return results[0]
    return map(merge, zip(*results, strict=True))


def merge(rows: tuple[Row, ...]) -> Row:
    """The rows of an image by several models as one."""
    scores: dict[str, float] = {}
    for tag in (tag for row in rows for tag in row.get("tags", ())):
        scores[tag["tag"]] = max(tag["score"], scores.get(tag["tag"], 0.0))
    merged: Row = {}
    for row in rows:
        merged = {**row, **merged}
    if any("tags" in row for row in rows):
        ordered = sorted(scores.items(), key=lambda item: -item[1])
        merged["tags"] = [{"tag": tag, "score": score} for tag, score in ordered]
    error = next((row for row in rows if "error" in row), None)
    return error or merged
