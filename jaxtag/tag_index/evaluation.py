"""Metrics of a tag index on a labeled split."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from jaxtag.data import sources
from jaxtag.data.sources import Source
from jaxtag.metrics import multilabel
from jaxtag.tag_index.index import TagIndex


def evaluate(
    index: TagIndex, vectors: Float[np.ndarray, "N D"], source: Source, positions: np.ndarray
) -> dict[str, float]:
    """Metrics of the tags that the index gives to images.

    Args:
        vectors: of N images.
        source: their split, with tags or classes. Names that the index lacks have a score of 0.
        positions: int [N], of the images in the split.

    Returns:
        `top1` of a split with classes, `multilabel.ranking_metrics` of one with tags; `examples`.
    """
    own = source.class_names("label" if "label" in source.features else "tags")
    names = list(dict.fromkeys([*index.tag_names, *own]))
    scores = np.zeros((len(vectors), len(names)), np.float32)
    scores[:, : len(index.tag_names)] = index.scores(vectors)
    targets = _targets(source, names)[positions]
    examples = float(len(vectors))
    if "label" in source.features:
        correct = targets[np.arange(len(targets)), scores.argmax(1)]
        return {"top1": float(correct.mean()), "examples": examples}
    metrics = multilabel.ranking_metrics(scores, targets, np.ones_like(targets))
    return {**metrics, "examples": examples}


def _targets(source: Source, names: Sequence[str]) -> Bool[np.ndarray, "N T"]:
    column_of = {name: column for column, name in enumerate(names)}
    targets = np.zeros((len(source), len(names)), bool)
    for row, (_, tags) in enumerate(sources.iter_tags(source)):
        targets[row, [column_of[tag] for tag in tags]] = True
    return targets
