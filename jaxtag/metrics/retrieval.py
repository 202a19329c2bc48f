"""How well vectors group pictures by class: nearest neighbours of each, and clusters of all.

Labels are classes, int [N], or tags, bool [N, T]: pictures are alike where they share one.
Each vector is a query against all others; what is near is of a small Euclidean distance, which on
vectors of length 1 is the order of cosines. Queries are taken some at a time, so that memory grows
with the number of vectors and not with its square.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.cluster.vq import kmeans2

RECALLS = (1, 2, 4, 8)
_ENTRIES = 2**22  # distances at a time
_ROUNDS = 25  # of k-means


def retrieval_metrics(
    embeddings: np.ndarray, labels: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """`rankings`; with classes also the NMI of as many clusters as there are of them.

    Args:
      embeddings: float [N, D].
      labels: int [N] or bool [N, T].
      seed: of where k-means starts.
    """
    found = ranking_metrics(embeddings, labels)
    if labels.ndim > 1:
        return found
    _, classes = np.unique(labels, return_inverse=True)
    groups = clusters(embeddings, classes.max(initial=-1) + 1, seed)
    return {**found, "nmi": normalized_mutual_information(classes, groups)}


def ranking_metrics(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Recall@k, R-precision and MAP@R (Musgrave et al. 2020, arXiv:2003.08505, section 3.2).

    Of a query with R others that are alike: recall@k is 1 where one of them is among the k nearest;
    R-precision the share of them among the R nearest; MAP@R the sum over ranks i up to R of the
    precision at i where rank i is one of them, divided by R. Of equals the first counts as nearer.

    Returns:
      `recall@1` …, `r_precision`, `map@r`: means over the queries that are alike to others; and
      `examples`, how many those are.
    """
    relevant = _relevant(labels)
    queries = np.flatnonzero(relevant)
    names = [*(f"recall@{k}" for k in RECALLS), "r_precision", "map@r"]
    sums = np.zeros(len(names))
    if len(queries):
        depth = min(len(labels) - 1, max(*RECALLS, relevant.max()))
        for rows, places in neighbours(embeddings, depth, queries):
            right = np.take_along_axis(_alike(labels, rows), places, 1)
            sums += _of_ranks(right, relevant[rows]).sum(0)
    means = sums / max(len(queries), 1)
    found = dict(zip(names, means.tolist(), strict=True))
    return {**found, "examples": float(len(queries))}


def _relevant(labels: np.ndarray) -> np.ndarray:
    """How many others each is alike to, int [N]."""
    at_a_time = max(1, _ENTRIES // max(1, len(labels)))
    blocks = np.split(np.arange(len(labels)), range(at_a_time, len(labels), at_a_time))
    counts = np.concatenate([_alike(labels, rows).sum(1) for rows in blocks])
    itself = labels.any(1) if labels.ndim > 1 else 1
    return counts - itself


def _alike(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Which are alike to those at `rows` [Q], themselves included: bool [Q, N]."""
    if labels.ndim == 1:
        return labels[rows, None] == labels
    return labels[rows].astype(np.float32) @ labels.T.astype(np.float32) > 0


def _of_ranks(right: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """From which ranks are of the query's class [Q, depth] to its metrics [Q, 6]."""
    recalls = [right[:, :k].any(1) for k in RECALLS]
    ranks = np.arange(1, right.shape[1] + 1)
    right = right & (ranks <= relevant[:, None])
    precision = right.cumsum(1) / ranks
    shares = [right.sum(1) / relevant, (precision * right).sum(1) / relevant]
    return np.stack([*recalls, *shares], 1)


def neighbours(
    embeddings: np.ndarray, count: int, queries: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The `count` nearest others of each query, nearest first, some queries at a time.

    Yields:
      (queries [Q], their neighbours int [Q, count]): places in `embeddings`.
    """
    vectors = jnp.asarray(embeddings, jnp.float32)
    at_a_time = max(1, min(_ENTRIES // len(vectors), len(queries)))
    for start in range(0, len(queries), at_a_time):
        rows = np.asarray(queries[start : start + at_a_time])
        padded = np.pad(rows, (0, at_a_time - len(rows)))  # so that it is compiled once
        yield rows, np.asarray(_nearest(vectors, padded, count))[: len(rows)]


@functools.partial(jax.jit, static_argnames="count")
def _nearest(vectors: jax.Array, rows: jax.Array, count: int) -> jax.Array:
    products = jnp.matmul(vectors[rows], vectors.T, precision="highest")
    closeness = 2 * products - jnp.square(vectors).sum(1)  # |q|² less the squared distance
    closeness = jnp.where(rows[:, None] == jnp.arange(len(vectors)), -jnp.inf, closeness)
    return jax.lax.top_k(closeness, count)[1]


def clusters(embeddings: np.ndarray, count: int, seed: int) -> np.ndarray:
    """k-means from k-means++ (Arthur and Vassilvitskii 2007): the cluster of each vector, [N]."""
    if count < 2:
        return np.zeros(len(embeddings), int)
    vectors, random = np.asarray(embeddings, np.float64), np.random.default_rng(seed)
    _, groups = kmeans2(vectors, count, iter=_ROUNDS, minit="++", rng=random)
    return groups


def normalized_mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information of two groupings [N] over the mean of their entropies; 1 if both are one.

    (Strehl and Ghosh 2002; the arithmetic mean, as scikit-learn has it.)
    """
    if not len(first):
        return 0.0
    first, second = (np.unique(one, return_inverse=True)[1] for one in (first, second))
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1 / len(first))
    rows, columns = table.sum(1), table.sum(0)
    joint = table[table > 0]
    information = (joint * np.log(joint / np.outer(rows, columns)[table > 0])).sum()
    entropies = -(rows * np.log(rows)).sum() - (columns * np.log(columns)).sum()
    return float(max(information, 0) / (entropies / 2)) if entropies > 0 else 1.0
