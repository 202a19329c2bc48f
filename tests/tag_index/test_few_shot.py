"""The linear probe against SciPy's optimum in float64; draws and choices on made-up classes."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jaxtag.errors import UserError
from jaxtag.tag_index import few_shot

CLASSES, SIZE = 3, 5


def blobs(count: int, seed: int, spread: float = 1.0) -> few_shot.LabeledVectors:
    """`count` vectors of each class."""
    rng = np.random.RandomState(seed)
    labels = np.tile(np.arange(CLASSES), count)
    centres = 3 * np.eye(CLASSES, SIZE)
    noise = spread * rng.randn(len(labels), SIZE)
    return (centres[labels] + noise).astype(np.float32), labels


def optimum(x: np.ndarray, labels: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(weights, bias) of penalised multinomial regression, by SciPy in float64."""

    def loss(flat: np.ndarray) -> float:
        weights, bias = flat[:-CLASSES].reshape(SIZE, CLASSES), flat[-CLASSES:]
        logits = x @ weights + bias
        losses = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(x)), labels]
        return losses.mean() + penalty / 2 * np.square(weights).sum()

    start = np.zeros(SIZE * CLASSES + CLASSES)
    flat = scipy.optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-7}).x
    return flat[:-CLASSES].reshape(SIZE, CLASSES), flat[-CLASSES:]


def probe(x, y, used, held):
    return few_shot.linear_probe(x, y, used, held, blobs(20, 9)[0], CLASSES)


def test_the_probe_is_the_optimum() -> None:
    """Of the pictures that are used alone: the others are spoiled."""
    x, y = blobs(16, 0, spread=2.0)
    used = np.arange(len(x)) < 18
    spoiled = np.where(used[:, None], x, 100).astype(np.float32)
    logits = probe(spoiled, y, used, np.zeros(len(x), bool))
    seen = x[used].astype(np.float64)
    mean, scale = seen.mean(0), np.sqrt(np.square(seen - seen.mean(0)).mean())
    weights, bias = optimum((seen - mean) / scale, y[used], 1e-2)
    expected = (blobs(20, 9)[0] - mean) / scale @ weights + bias
    # Biases are free by a constant.
    centred = (a - a.mean(1, keepdims=True) for a in (logits, expected))
    np.testing.assert_allclose(*centred, atol=2e-3)


def test_the_penalty_is_chosen_on_the_held_out_part() -> None:
    """Held-out pictures with labels at random ask for the strongest penalty, others for less."""
    x, y = blobs(16, 0)
    used, held = np.ones(len(x), bool), np.arange(len(x)) < 12
    wrong = np.where(held, (y + 1) % CLASSES, y)
    strong = probe(x, wrong, used, held)
    plain = probe(x, y, used, held)
    assert np.abs(strong).max() < 0.5 * np.abs(plain).max()


def test_more_images_tell_more() -> None:
    training, test = blobs(40, 1, spread=1.5), blobs(60, 2, spread=1.5)
    results = few_shot.evaluate(training, test, [16, 1], seeds=4)
    assert list(results) == [1, 16]
    for method in ("linear_probe", "nearest_neighbors"):
        one, many = np.array(results[1][method]), np.array(results[16][method])
        assert len(one) == 4 and len(set(one)) > 1  # drawn anew
        assert many.mean() > one.mean() + 0.05 and many.min() > 0.75
    assert results == few_shot.evaluate(training, test, [1, 16], seeds=4)


def test_one_neighbor_is_the_nearest() -> None:
    x, y = blobs(4, 3)
    test = blobs(10, 4)[0]
    scores = few_shot.nearest_neighbors(x, y, test, 1, CLASSES)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (test, x)]
    np.testing.assert_array_equal(scores.argmax(1), y[(unit[0] @ unit[1].T).argmax(1)])


def test_too_few_images_are_told() -> None:
    with pytest.raises(UserError, match="class 0 has 3 training images, fewer than the 4"):
        few_shot.evaluate(blobs(3, 0), blobs(2, 1), [1, 4], seeds=1)
