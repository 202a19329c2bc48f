"""Metrics of image-text retrieval: how near an image's own texts are among all, and a text's image.

Each text is a query against all images and each image a query against all texts, by the inner
product of their vectors. Queries are processed in chunks, so that memory grows with the number of
vectors and not with its square.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

RECALLS = (1, 5, 10)
_ENTRIES = 2**22  # similarities computed at a time


def image_text_metrics(
    image: Float[np.ndarray, "N D"],
    text: Float[np.ndarray, "M D"],
    image_of_text: Integer[np.ndarray, " M"],
) -> dict[str, float]:
    """Recall@k and the median rank in both directions (Karpathy and Fei-Fei 2015, section 4.1).

    The rank of a text's image is among all images; the rank of an image's texts is that of the
    nearest of them among all texts. Ties go to the lower index. Images without a text are no
    queries.

    Args:
        image_of_text: the row of `image` that a text describes.

    Returns:
        `text_to_image_recall@1` …, `text_to_image_median_rank`, and the same of `image_to_text`.
    """
    metrics = {}
    for direction, ranks in (
        ("text_to_image", ranks_of_images(image, text, image_of_text)),
        ("image_to_text", ranks_of_texts(image, text, image_of_text)),
    ):
        for k in RECALLS:
            metrics[f"{direction}_recall@{k}"] = float((ranks <= k).mean()) if len(ranks) else 0.0
        metrics[f"{direction}_median_rank"] = float(np.median(ranks)) if len(ranks) else 0.0
    return metrics


def ranks_of_images(
    image: Float[np.ndarray, "N D"],
    text: Float[np.ndarray, "M D"],
    image_of_text: Integer[np.ndarray, " M"],
) -> Integer[np.ndarray, " M"]:
    """The rank of each text's image among all images, from 1."""
    ranks = [
        np.asarray(_rank_images(rows, image, own))[:count]
        for rows, own, count in _chunks(text, image_of_text, len(image))
    ]
    return np.concatenate(ranks) if ranks else np.zeros(0, np.int32)


def ranks_of_texts(
    image: Float[np.ndarray, "N D"],
    text: Float[np.ndarray, "M D"],
    image_of_text: Integer[np.ndarray, " M"],
) -> Integer[np.ndarray, " Q"]:
    """The rank of the nearest text of each image that has any among all texts, from 1."""
    queries = np.unique(image_of_text)
    ranks = [
        np.asarray(_rank_texts(rows, text, own, image_of_text))[:count]
        for rows, own, count in _chunks(image[queries], queries, len(text))
    ]
    return np.concatenate(ranks) if ranks else np.zeros(0, np.int32)


def _chunks(
    vectors: np.ndarray, own: np.ndarray, candidates: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(vectors, own, their number) of some queries at a time, padded so that it compiles once."""
    size = max(1, min(_ENTRIES // max(1, candidates), len(vectors)))
    for start in range(0, len(vectors), size):
        rows, numbers = vectors[start : start + size], own[start : start + size]
        padding = size - len(rows)
        yield np.pad(rows, ((0, padding), (0, 0))), np.pad(numbers, (0, padding)), len(rows)


@jax.jit
def _rank_images(
    text: Float[Array, "Q D"], image: Float[Array, "N D"], own: Int[Array, " Q"]
) -> Int[Array, " Q"]:
    return _ranks(_similarity(text, image), own)


@jax.jit
def _rank_texts(
    image: Float[Array, "Q D"],
    text: Float[Array, "M D"],
    own: Int[Array, " Q"],
    image_of_text: Int[Array, " M"],
) -> Int[Array, " Q"]:
    similarity = _similarity(image, text)
    nearest = jnp.where(own[:, None] == image_of_text, similarity, -jnp.inf).argmax(1)
    return _ranks(similarity, nearest)


def _similarity(queries: jax.Array, candidates: jax.Array) -> jax.Array:
    return jnp.matmul(queries, candidates.T, precision="highest")


def _ranks(similarity: Float[Array, "Q N"], column: Int[Array, " Q"]) -> Int[Array, " Q"]:
    """The rank of a column in each row."""
    value = jnp.take_along_axis(similarity, column[:, None], 1)
    before = jnp.arange(similarity.shape[1]) < column[:, None]
    return 1 + ((similarity > value) | ((similarity == value) & before)).sum(1)
