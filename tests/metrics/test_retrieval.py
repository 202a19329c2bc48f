"""Metrics of retrieval against a plain reading of their definitions, and scikit-learn's NMI."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag.metrics import retrieval

STORED = REFERENCES / "metric_learning.safetensors"


def scattered(seed: int, count: int = 83) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of length 1, around 9 centers of which one has a single vector."""
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 8, count - 1) ** 2, 90)
    vectors = rng.standard_normal((91, 5))[labels] + rng.standard_normal((count, 5))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def tagged(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same vectors, with up to three tags: their class, and others at random."""
    vectors, labels = scattered(seed)
    tags = np.eye(91, dtype=bool)[labels]
    tags[:, :3] |= np.random.default_rng(seed).random((len(tags), 3)) < 0.1
    tags[5], tags[-1, :3] = False, False  # none, and one that no other has
    return vectors, tags


def plain(vectors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """One query after the other, all distances in float64."""
    labels = labels if labels.ndim > 1 else np.eye(91, dtype=bool)[labels]
    rows = []
    for query in range(len(labels)):
        gaps = np.square(vectors.astype(np.float64) - vectors[query]).sum(1)
        order = [i for i in np.argsort(gaps, kind="stable") if i != query]
        right = (labels[order] & labels[query]).any(1)
        relevant = right.sum()
        if relevant:
            first = right[:relevant]
            precisions = [right[: i + 1].mean() for i in range(relevant)]
            shares = [first.mean(), sum(precisions * first) / relevant]
            rows.append([*(right[:k].any() for k in (1, 2, 4, 8)), *shares])
    names = ["recall@1", "recall@2", "recall@4", "recall@8", "r_precision", "map@r"]
    return dict(zip(names, np.mean(rows, 0), strict=True)) | {"examples": len(rows)}


@pytest.mark.parametrize("seed", [0, 1])
def test_rankings_equal_brute_force_in_blocks(seed, monkeypatch) -> None:
    monkeypatch.setattr(retrieval, "_ENTRIES", 83 * 10)  # ten queries at a time, two at the end
    for example in scattered(seed), tagged(seed):
        metrics = retrieval.ranking_metrics(*example)
        assert metrics == pytest.approx(plain(*example), abs=1e-9)
        assert 0.1 < metrics["map@r"] < 0.9  # neither all right nor all wrong
    assert metrics["examples"] == 81  # without the picture that has no tag, and the one alone


def test_a_worked_example() -> None:
    """On a line: classes a a b a b at 0, 1, 3, 6, 10."""
    vectors = np.array([[0.0], [1], [3], [6], [10]], np.float32)
    metrics = retrieval.ranking_metrics(vectors, np.array([0, 0, 1, 0, 1]))
    # Ranks of the own class: a0: 1, 3; a1: 1, 3; b3: 4; a6: 3, 4 (b3, b10 are nearer); b10: 2.
    assert metrics["recall@1"] == pytest.approx(2 / 5)
    assert metrics["recall@2"] == pytest.approx(3 / 5)
    assert metrics["recall@4"] == 1
    assert metrics["r_precision"] == pytest.approx((1 / 2 + 1 / 2 + 0 + 0 + 0) / 5)
    assert metrics["map@r"] == pytest.approx((1 / 2 + 1 / 2) / 5)


def test_memory_holds_no_square() -> None:
    import jax
    import jax.numpy as jnp

    def temporaries(count: int) -> int:
        rows = retrieval._ENTRIES // count
        shapes = [jax.ShapeDtypeStruct((count, 4), jnp.float32), jax.ShapeDtypeStruct((rows,), int)]
        compiled = retrieval._nearest.lower(*shapes, count=8).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(100_000) < 1.5 * temporaries(20_000) < 1e8


def test_equals_and_few_vectors() -> None:
    """Copies are each other's neighbours, the first first; alone in a class is no query."""
    vectors, labels = np.ones((4, 2), np.float32), np.array([0, 1, 1, 2])
    ((_, near),) = retrieval.nearest_neighbors(vectors, 3, range(4))
    assert near.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    metrics = retrieval.retrieval_metrics(vectors, labels)
    assert metrics["examples"] == 2 and metrics["recall@1"] == 0 and metrics["recall@2"] == 1
    lonely = retrieval.retrieval_metrics(vectors[:2], labels[:2])
    assert lonely["examples"] == 0 and lonely["map@r"] == 0
    assert retrieval.retrieval_metrics(vectors[:0], labels[:0])["nmi"] == 0


def test_nmi_is_that_of_scikit_learn() -> None:
    stored = load_file(STORED)
    for (first, second), expected in zip(stored["nmi/groups"], stored["nmi/values"], strict=True):
        metrics = retrieval.normalized_mutual_information(first, second)
        assert metrics == pytest.approx(expected, abs=1e-9)
    assert set(np.round(stored["nmi/values"], 6)) >= {0.0, 1.0}
    one = np.zeros(3)
    assert retrieval.normalized_mutual_information(one, one) == 1


def test_clusters_find_groups_that_lie_apart() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 120)
    vectors = np.eye(6, dtype=np.float32)[labels] + 0.02 * rng.standard_normal((120, 6))
    metrics = retrieval.retrieval_metrics(vectors, labels)
    assert metrics["nmi"] == pytest.approx(1) and metrics["map@r"] == pytest.approx(1)
    again = retrieval.retrieval_metrics(vectors, labels)
    assert again == metrics
