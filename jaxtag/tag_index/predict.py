"""Tags of files by a tag index, alone or merged with the predictions of a model."""

import dataclasses
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.errors import UserError
from jaxtag.inference import features
from jaxtag.inference.share import Share
from jaxtag.tag_index import IndexStorage, TagIndex
from jaxtag.tasks.base import Row


@dataclasses.dataclass(frozen=True)
class IndexPredictor:
    """Gives images the likeliest tags of their neighbors in an index.

    Attributes:
        folder: of the index.
        index: its vectors and tags.
        extractor: makes the vectors of images as the index's were made.
    """

    folder: Path
    index: TagIndex
    extractor: features.FeatureExtractor

    @classmethod
    def load(cls, folder: Path) -> "IndexPredictor":
        """Raises UserError where there is no index, or the source of its vectors is gone."""
        extractor = features.from_description(_features(folder))
        return cls(folder, TagIndex(folder, extractor.mesh), extractor)

    def predict_rows(
        self, files: Sequence[Any], max_tags: int, share: Share | None = None
    ) -> Iterator[Row]:
        """Yields a row for each file, in order: its most likely tags.

        Args:
            files: image files.
            max_tags: maximum number of tags per image.
            share: of the files, those that are meant; by default all.
        """
        for batch in self.extractor.of_files(files, share):
            rows: dict[int, Row] = {i: {"error": reason} for i, reason in batch.errors.items()}
            predictions = self.index.tags(batch.vectors, max_tags)
            for position, tags in zip(batch.positions, predictions, strict=True):
                rows[int(position)] = {"tags": [_tag_entry(tag, score) for tag, score in tags]}
            for position in sorted(rows):
                yield {"file": files[position], **rows[position]}


def _features(folder: Path) -> dict[str, Any]:
    """How the vectors of an index are made."""
    description = IndexStorage(folder).description.get("features")
    if not isinstance(description, dict):
        raise UserError(f"{folder}: its manifest is damaged: it does not say what the vectors are")
    return description


def merge_predictions(
    model_rows: Iterator[Row],
    index_rows: Iterator[Row],
    model_tags: Container[str],
    max_tags: int,
) -> Iterator[Row]:
    """Merges the rows of a model and of an index: a tag that the model has gets the mean score.

    A tag that one of them does not predict counts as 0 there. A tag that only the index has,
    because it was added after training, keeps its score. Other fields of the model's row are kept.

    Args:
        model_rows: rows of the model, one per image.
        index_rows: rows of the index for the same images.
        model_tags: all tags of the model.
        max_tags: maximum number of tags per image.
    """
    for row, other in zip(model_rows, index_rows, strict=True):
        if "error" in row or "error" in other:
            yield row if "error" in row else other
            continue
        model_scores = {entry["tag"]: entry["score"] for entry in row.get("tags", ())}
        index_scores = {entry["tag"]: entry["score"] for entry in other["tags"]}
        names = list(dict.fromkeys([*model_scores, *index_scores]))
        scores = np.array(
            [
                (model_scores.get(name, 0.0) + index_scores.get(name, 0.0)) / 2
                if name in model_tags
                else index_scores[name]
                for name in names
            ]
        )
        best = np.argsort(-scores, kind="stable")[:max_tags]
        yield {**row, "tags": [_tag_entry(names[i], scores[i]) for i in best]}


def _tag_entry(tag: str, score: float) -> dict[str, Any]:
    return {"tag": tag, "score": round(float(score), 4)}
