"""Retrieval metrics of embeddings: nearest neighbors of each image, and clusters of all.

Labels are class indices, int [N], or tags, bool [N, T]; images are relevant to each other where
they share a class or a tag. Each vector is a query against all others, by Euclidean distance, which
on unit vectors orders as cosine similarity does. Queries are processed in chunks, so that memory
grows with the number of vectors and not with its square.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.cluster.vq import kmeans2

RECALLS = (1, 2, 4, 8)
_ENTRIES = 2**22  # distances computed at a time
_ITERATIONS = 25  # of k-means

Labels = Integer[np.ndarray, " N"] | Bool[np.ndarray, "N T"]


def retrieval_metrics(
    embeddings: Float[np.ndarray, "N D"], labels: Labels, seed: int = 0
) -> dict[str, float]:
    """`ranking_metrics`; with class labels also `nmi`, of as many clusters as there are classes.

    Args:
        seed: of the initialization of k-means.
    """
    metrics = ranking_metrics(embeddings, labels)
    if labels.ndim > 1:
        return metrics
    _, classes = np.unique(labels, return_inverse=True)
    clusters = kmeans_clusters(embeddings, int(classes.max(initial=-1)) + 1, seed)
    return {**metrics, "nmi": normalized_mutual_information(classes, clusters)}


def ranking_metrics(embeddings: Float[np.ndarray, "N D"], labels: Labels) -> dict[str, float]:
    """Recall@k, R-precision and MAP@R (Musgrave et al. 2020, arXiv:2003.08505, section 3.2).

    For a query with R relevant others: recall@k is 1 if one of them is among the k nearest;
    R-precision is their fraction of the R nearest; MAP@R is the sum over ranks i up to R of the
    precision at i where rank i is relevant, divided by R. Ties go to the lower index.

    Returns:
        `recall@1` …, `r_precision`, `map@r`: means over the queries with R > 0; and `examples`, the
        number of these queries.
    """
    num_relevant = _count_relevant(labels)
    queries = np.flatnonzero(num_relevant)
    names = [*(f"recall@{k}" for k in RECALLS), "r_precision", "map@r"]
    sums = np.zeros(len(names))
    if len(queries):
        depth = min(len(labels) - 1, int(max(*RECALLS, num_relevant.max())))
        for rows, neighbors in nearest_neighbors(embeddings, depth, queries):
            relevant = np.take_along_axis(_relevance(labels, rows), neighbors, 1)
            sums += _metrics_of_ranking(relevant, num_relevant[rows]).sum(0)
    means = sums / max(len(queries), 1)
    return {**dict(zip(names, means.tolist(), strict=True)), "examples": float(len(queries))}


def _count_relevant(labels: np.ndarray) -> np.ndarray:
    """The number of others that are relevant to each image, int [N]."""
    chunk = max(1, _ENTRIES // max(1, len(labels)))
    chunks = np.split(np.arange(len(labels)), range(chunk, len(labels), chunk))
    counts = np.concatenate([_relevance(labels, rows).sum(1) for rows in chunks])
    itself = labels.any(1) if labels.ndim > 1 else 1
    return counts - itself


def _relevance(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Which images are relevant to those at `rows` [Q], themselves included: bool [Q, N]."""
    if labels.ndim == 1:
        return labels[rows, None] == labels
    return labels[rows].astype(np.float32) @ labels.T.astype(np.float32) > 0


def _metrics_of_ranking(relevant: np.ndarray, num_relevant: np.ndarray) -> np.ndarray:
    """From the relevance of each rank, bool [Q, depth], to the metrics of each query [Q, 6]."""
    recalls = [relevant[:, :k].any(1) for k in RECALLS]
    ranks = np.arange(1, relevant.shape[1] + 1)
    relevant = relevant & (ranks <= num_relevant[:, None])
    precision = relevant.cumsum(1) / ranks
    r_precision = relevant.sum(1) / num_relevant
    map_at_r = (precision * relevant).sum(1) / num_relevant
    return np.stack([*recalls, r_precision, map_at_r], 1)


def nearest_neighbors(
    embeddings: Float[np.ndarray, "N D"],
    count: int,
    queries: Sequence[int] | Integer[np.ndarray, " Q"],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Finds the `count` nearest other vectors of each query, nearest first, chunk by chunk.

    Args:
        queries: row indices into `embeddings`.

    Yields:
        (queries int [C], their neighbors int [C, count]): row indices into `embeddings`.
    """
    vectors = jnp.asarray(embeddings, jnp.float32)
    chunk = max(1, min(_ENTRIES // len(vectors), len(queries)))
    for start in range(0, len(queries), chunk):
        rows = np.asarray(queries[start : start + chunk])
        padded = np.pad(rows, (0, chunk - len(rows)))  # so that it compiles once
        yield rows, np.asarray(_nearest(vectors, padded, count))[: len(rows)]


@functools.partial(jax.jit, static_argnames="count")
def _nearest(vectors: jax.Array, rows: jax.Array, count: int) -> jax.Array:
    products = jnp.matmul(vectors[rows], vectors.T, precision="highest")
    closeness = 2 * products - jnp.square(vectors).sum(1)  # |q|² less the squared distance
    closeness = jnp.where(rows[:, None] == jnp.arange(len(vectors)), -jnp.inf, closeness)
    return jax.lax.top_k(closeness, count)[1]


def kmeans_clusters(
    embeddings: Float[np.ndarray, "N D"], count: int, seed: int
) -> Integer[np.ndarray, " N"]:
    """The cluster of each vector by k-means from k-means++ (Arthur and Vassilvitskii 2007)."""
    if count < 2:
        return np.zeros(len(embeddings), int)
    vectors, rng = np.asarray(embeddings, np.float64), np.random.default_rng(seed)
    _, clusters = kmeans2(vectors, count, iter=_ITERATIONS, minit="++", rng=rng)
    return clusters


def normalized_mutual_information(
    first: Shaped[np.ndarray, " N"], second: Shaped[np.ndarray, " N"]
) -> float:
    """Mutual information of two partitions over the mean of their entropies; 1 if both are trivial.

    (Strehl and Ghosh 2002; with the arithmetic mean, as in scikit-learn.)
    """
    if not len(first):
        return 0.0
    first, second = (np.unique(labels, return_inverse=True)[1] for labels in (first, second))
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1 / len(first))
    rows, columns = table.sum(1), table.sum(0)
    joint = table[table > 0]
    information = (joint * np.log(joint / np.outer(rows, columns)[table > 0])).sum()
    entropies = -(rows * np.log(rows)).sum() - (columns * np.log(columns)).sum()
    return float(max(information, 0) / (entropies / 2)) if entropies > 0 else 1.0
