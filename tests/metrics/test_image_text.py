"""Metrics of image-text retrieval against a plain reading of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag.metrics import image_text


def example(seed: int, images: int = 37, texts: int = 90):
    """Vectors of small integers, so that similarities are exact and often tie."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-3, 4, (images, 6)).astype(np.float32)
    image_of_text = rng.integers(0, images - 2, texts)  # two images have no text
    text = image[image_of_text] + rng.integers(-2, 3, (texts, 6))
    return image, text.astype(np.float32), image_of_text


def plain(image: np.ndarray, text: np.ndarray, image_of_text: np.ndarray) -> dict[str, float]:
    """One query after the other, each sorting all candidates."""
    of_images, of_texts = [], []
    for vector, own in zip(text, image_of_text, strict=True):
        order = sorted(range(len(image)), key=lambda i: (-float(image[i] @ vector), i))
        of_images.append(order.index(own) + 1)
    for number, vector in enumerate(image):
        order = sorted(range(len(text)), key=lambda i: (-float(text[i] @ vector), i))
        own_ranks = [rank for rank, i in enumerate(order, 1) if image_of_text[i] == number]
        of_texts += [min(own_ranks)] if own_ranks else []
    metrics = {}
    for direction, ranks in (("text_to_image", of_images), ("image_to_text", of_texts)):
        for k in (1, 5, 10):
            metrics[f"{direction}_recall@{k}"] = sum(r <= k for r in ranks) / len(ranks)
        metrics[f"{direction}_median_rank"] = sorted(ranks)[len(ranks) // 2]
        if len(ranks) % 2 == 0:
            middle = sorted(ranks)[len(ranks) // 2 - 1 : len(ranks) // 2 + 1]
            metrics[f"{direction}_median_rank"] = sum(middle) / 2
    return metrics


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_equal_brute_force_in_chunks(seed, monkeypatch) -> None:
    monkeypatch.setattr(image_text, "_ENTRIES", 37 * 20)  # the last chunk is not full
    metrics = image_text.image_text_metrics(*example(seed))
    assert metrics == pytest.approx(plain(*example(seed)), abs=1e-12)
    assert 0.2 < metrics["text_to_image_recall@1"] < 0.9


def test_a_worked_example() -> None:
    """Two images; the first has two texts, of which the second is nearest to the other image."""
    image = np.array([[1, 0], [0, 1]], np.float32)
    text = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32)
    metrics = image_text.image_text_metrics(image, text, np.array([0, 0, 1]))
    assert metrics["text_to_image_recall@1"] == pytest.approx(2 / 3)
    assert metrics["image_to_text_recall@1"] == 0.5  # the nearest to image 1 is a text of image 0
    assert metrics["image_to_text_median_rank"] == 1.5
    assert metrics["text_to_image_recall@5"] == 1


def test_no_texts_give_zeros() -> None:
    nothing = np.zeros((0, 2), np.float32)
    metrics = image_text.image_text_metrics(np.eye(2, dtype=np.float32), nothing, np.zeros(0, int))
    assert set(metrics.values()) == {0.0}


def test_memory_holds_no_square() -> None:
    def temporaries(count: int) -> int:
        rows = image_text._ENTRIES // count
        shapes = [((rows, 4), jnp.float32), ((count, 4), jnp.float32), ((rows,), jnp.int32)]
        arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
        compiled = image_text._rank_images.lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(100_000) < 1.5 * temporaries(20_000) < 1e8
