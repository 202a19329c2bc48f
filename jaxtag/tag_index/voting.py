"""Tag scores from nearest neighbors: pure functions of similarities and a tag matrix."""

import numpy as np
from jaxtyping import Float, Integer
from scipy.sparse import csr_array


def vote(
    scores: Float[np.ndarray, "Q K"],
    ids: Integer[np.ndarray, "Q K"],
    tags: csr_array,
    temperature: float,
) -> Float[np.ndarray, "Q T"]:
    """kNN vote: each tag's fraction of the neighbors, weighted by softmax(scores / temperature).

    Args:
        scores: -inf where there is no neighbor.
        ids: rows of `tags`.
        tags: [N, T], 1 where a row has a tag.
        temperature: divides the scores.

    Returns:
        float32 in [0, 1]; where each row has a single label, they sum to 1.
    """
    weights = _softmax(scores / temperature)
    votes = weights > 0
    queries = np.broadcast_to(np.arange(len(scores))[:, None], scores.shape)[votes]
    matrix = csr_array((weights[votes], (queries, ids[votes])), shape=(len(scores), tags.shape[0]))
    return (matrix @ tags).toarray().astype(np.float32)


def two_pass_vote(
    scores: Float[np.ndarray, "Q N"], tags: csr_array, per_tag: int, temperature: float
) -> Float[np.ndarray, "Q T"]:
    """Two-pass kNN (2PKNN), which balances rare and frequent tags.

    (Verma & Jawahar 2012, "Image Annotation Using Metric Learning in Semantic Neighbourhoods",
    sections 3.1 and 3.2.) The first pass selects, for each tag, the `per_tag` nearest rows that
    have it; the second sums exp(-distance) over the selected rows of each tag, as a fraction of the
    whole sum. Here -distance is scores / temperature.

    Args:
        scores: -inf for rows that do not count.
        tags: [N, T], 1 where a row has a tag.
        per_tag: neighbors per tag.
        temperature: divides the scores.

    Returns:
        float32 in [0, 1].
    """
    selected = np.zeros(scores.shape, bool)
    columns = tags.tocsc()
    for first, last in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
        rows = np.sort(columns.indices[first:last])
        order = np.argsort(-scores[:, rows], axis=1, kind="stable")[:, :per_tag]
        np.put_along_axis(selected, rows[order], True, axis=1)
    weights = _softmax(np.where(selected, scores, -np.inf) / temperature)
    return (weights @ tags).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last dimension in float64; zeros where all are -inf."""
    logits = logits.astype(np.float64)
    maximum = logits.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isfinite(maximum), maximum, 0))
    return weights / np.maximum(weights.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
