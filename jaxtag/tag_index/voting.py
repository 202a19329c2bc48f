"""From neighbours to tags: pure functions of similarities and of who has which tag."""

import numpy as np
from scipy.sparse import csr_array


def vote(
    scores: np.ndarray, numbers: np.ndarray, tags: csr_array, temperature: float
) -> np.ndarray:
    """Each tag's share of the nearest rows, weighted by the softmax of scores / temperature.

    Args:
      scores: float [Q, K], -inf where there is no neighbour.
      numbers: int [Q, K], of rows.
      tags: [N, T], 1 where a row has a tag.

    Returns:
      float32 [Q, T] in [0, 1]; of a single label a row, they add up to 1.
    """
    weights = _softmax(scores / temperature)
    there = weights > 0
    queries = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)[there]
    spread = csr_array(
        (weights[there], (queries, numbers[there])), shape=(len(scores), tags.shape[0])
    )
    return (spread @ tags).toarray().astype(np.float32)


def propagate(scores: np.ndarray, tags: csr_array, per_tag: int, temperature: float) -> np.ndarray:
    """Two-pass k-nearest-neighbours (Verma & Jawahar 2012, "Image Annotation Using Metric Learning
    in Semantic Neighbourhoods", sections 3.1 and 3.2): rare tags are heard like frequent ones.

    First, of each tag the `per_tag` nearest rows that have it; then each tag's sum of
    exp(-distance) over all of these, as a share of the whole sum. Here -distance is
    scores / temperature.

    Args:
      scores: float [Q, N], -inf for rows that do not count.
      tags: [N, T], 1 where a row has a tag.

    Returns:
      float32 [Q, T] in [0, 1].
    """
    chosen = np.zeros(scores.shape, bool)
    columns = tags.tocsc()
    for first, last in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
        rows = np.sort(columns.indices[first:last])
        order = np.argsort(-scores[:, rows], axis=1, kind="stable")[:, :per_tag]
        np.put_along_axis(chosen, rows[order], True, axis=1)
    weights = _softmax(np.where(chosen, scores, -np.inf) / temperature)
    return (weights @ tags).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last dimension, in float64; zeros where all are -inf."""
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isfinite(top), top, 0))
    return weights / np.maximum(weights.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
