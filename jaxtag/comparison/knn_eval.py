"""Evaluates a run's features by the classes or tags of their nearest neighbors.

    python -m jaxtag.comparison.knn_eval WORKDIR

prints the metrics on the run's evaluation split as a line of JSON; those that start with "pixels "
are of the raw pixels as vectors. The neighbors are training images.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from scipy.sparse import csr_array

from jaxtag.data import sources
from jaxtag.data.feature_table import FIELD, FeatureSource
from jaxtag.data.sources import Source
from jaxtag.datasets import prepared
from jaxtag.inference import predictor
from jaxtag.inference.feature_cache import SplitFeatures, split_features
from jaxtag.inference.features import from_pixels, from_predictor
from jaxtag.inference.predictor import Predictor
from jaxtag.metrics import multilabel
from jaxtag.tag_index import DEFAULT_KNN, VectorIndex, voting
from jaxtag.tasks.embed.task import EmbedTask
from jaxtag.training import cached_features

_PIXELS = 16  # a side


def evaluate(workdir: Path) -> dict[str, float]:
    """`top1` of a data set with classes; `multilabel.ranking_metrics` of one with tags."""
    model = predictor.load(str(workdir))
    data = model.config.data
    train, evaluation = (
        prepared.open_split(data.dataset, split, data.data_dir)
        for split in (data.train_split, data.evaluation_split)
    )
    if model.config.model.cached_views:
        compute = functools.partial(_cached_features, model)
    else:
        compute = functools.partial(split_features, from_predictor(model))
    features = _evaluate(compute, train, evaluation)
    pixels = _evaluate(functools.partial(split_features, from_pixels(_PIXELS)), train, evaluation)
    return {**features, **{f"pixels {name}": value for name, value in pixels.items()}}


def _cached_features(model: Predictor, source: Source) -> SplitFeatures:
    """The vectors of a model on a frozen backbone, from the features that it was trained on."""
    task = model.task
    target = cached_features.make_target(task)
    assert target is not None
    with_room = FeatureSource(source, dataclasses.replace(target, views=1))
    table = cached_features.compute(task, model.mesh, model.variables, with_room, train=False)
    positions = np.flatnonzero(table.decoded)
    vectors = table.features[0][positions]
    if isinstance(task, EmbedTask):
        vectors = np.asarray(jax.jit(task.embed_batch)(model.variables, {FIELD: vectors}))
    return SplitFeatures(positions, vectors)


def _evaluate(
    compute: Callable[[Source], SplitFeatures], train: Source, evaluation: Source
) -> dict[str, float]:
    features = compute(train)
    positions, vectors = features.positions, features.vectors
    center = vectors.mean(0)  # without it, raw pixels all point in the same direction
    index = VectorIndex(vectors.shape[1], "cosine")
    index.add(vectors - center)
    tags = _tag_matrix(train)[positions]
    queries = compute(evaluation)
    similarities, neighbors = index.search(queries.vectors - center, DEFAULT_KNN.neighbors)
    scores = voting.vote(similarities, neighbors, tags, DEFAULT_KNN.temperature)
    targets = _tag_matrix(evaluation)[queries.positions].toarray().astype(bool)
    if "label" in evaluation.features:
        correct = targets[np.arange(len(targets)), scores.argmax(1)]
        return {"top1": float(correct.mean()), "examples": float(len(correct))}
    known = np.ones_like(targets)
    metrics = multilabel.ranking_metrics(scores, targets, known)
    return {**metrics, "examples": float(len(targets))}


def _tag_matrix(source: Source) -> csr_array:
    """[N, T], 1 where an image has a class or tag."""
    names = source.class_names("label" if "label" in source.features else "tags")
    column_of = {name: column for column, name in enumerate(names)}
    entries = [
        (row, column_of[tag])
        for row, (_, tags) in enumerate(sources.iter_tags(source))
        for tag in tags
    ]
    rows, columns = zip(*entries, strict=True)
    ones = np.ones(len(entries), np.float32)
    return csr_array((ones, (rows, columns)), shape=(len(source), len(names)))


if __name__ == "__main__":
    print(json.dumps(evaluate(Path(sys.argv[1]))))
