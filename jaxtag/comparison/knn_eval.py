"""How well the nearest neighbours of a run's vectors tell classes or tags.

    python -m jaxtag.comparison.knn_eval WORKDIR

prints the metrics on the run's evaluation split as a line of JSON; those that start with "pixels "
are of the pictures themselves as vectors. The neighbours are training pictures.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from jaxtag.config import schema as configuration
from jaxtag.data import sources
from jaxtag.data.sources import Source
from jaxtag.inference.features import FeatureExtractor, from_pixels, from_workdir
from jaxtag.metrics import multilabel
from jaxtag.tag_index import DEFAULT_KNN, VectorIndex, voting

_PIXELS = 16  # a side


def by_neighbours(workdir: Path) -> dict[str, float]:
    """`top1` of a data set with classes; of one with tags the rankings of `tagging`."""
    data = configuration.load(workdir).data
    train, held_out = (
        sources.open_split(data.dataset, split, data.data_dir)
        for split in (data.train_split, data.evaluation_split)
    )
    learnt = _judged(from_workdir(str(workdir)), train, held_out)
    pixels = _judged(from_pixels(_PIXELS), train, held_out)
    return {**learnt, **{f"pixels {name}": value for name, value in pixels.items()}}


def _judged(maker: FeatureExtractor, train: Source, held_out: Source) -> dict[str, float]:
    positions, vectors = _vectors(maker, train)
    centre = vectors.mean(0)  # without it, all pixels point the same way
    rows = VectorIndex(maker.dimension, "cosine", maker.mesh)
    rows.add(vectors - centre)
    tags = _tags(train)[positions]
    positions, queries = _vectors(maker, held_out)
    scores, numbers = rows.search(queries - centre, DEFAULT_KNN.neighbours)
    votes = voting.vote(scores, numbers, tags, DEFAULT_KNN.temperature)
    truth = _tags(held_out)[positions].toarray().astype(bool)
    if "label" in held_out.features:
        right = truth[np.arange(len(truth)), votes.argmax(1)]
        return {"top1": float(right.mean()), "examples": float(len(right))}
    known = np.ones_like(truth)
    return {**multilabel.ranking_metrics(votes, truth, known), "examples": float(len(truth))}


def _vectors(maker: FeatureExtractor, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """(positions [M], vectors [M, D]) of the pictures that can be read."""
    parts = list(maker.of_source(source))
    return (
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.vectors for part in parts]),
    )


def _tags(source: Source) -> csr_array:
    """[N, T], 1 where a picture has a class or tag."""
    names = source.class_names("label" if "label" in source.features else "tags")
    number = {name: place for place, name in enumerate(names)}
    places = [
        (row, number[tag])
        for row, (_, tags) in enumerate(sources.iter_tags(source))
        for tag in tags
    ]
    rows, columns = zip(*places, strict=True)
    ones = np.ones(len(places), np.float32)
    return csr_array((ones, (rows, columns)), shape=(len(source), len(names)))


if __name__ == "__main__":
    print(json.dumps(by_neighbours(Path(sys.argv[1]))))
