"""Thresholds of tags: they hold on images that did not choose them."""

import numpy as np
import pytest

from jaxtag.metrics import multilabel
from jaxtag.tasks.tag import threshold_selection


def sample(num_images: int, seed: int, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores, tags): tag t is at its best from about 0.5 + shifts[t] on, a tag is rare."""
    rng = np.random.RandomState(seed)
    truth = rng.uniform(size=(num_images, len(shifts))) < np.geomspace(0.2, 0.01, len(shifts))
    logits = rng.normal(size=truth.shape) + 2.5 * truth - 2
    return 1 / (1 + np.exp(-(logits + 4 * shifts))), truth


def f1(scores: np.ndarray, tags: np.ndarray, thresholds: np.ndarray) -> float:
    rates = multilabel.per_class_metrics(scores, tags, np.ones_like(tags), thresholds)
    return multilabel.threshold_metrics(rates)["micro_f1"]


def fit(scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
    return threshold_selection.fit_thresholds(scores, tags, np.ones_like(tags))


def test_few_images_get_one_threshold_for_all_tags() -> None:
    """All tags are best at the same threshold: what differs between them is noise."""
    for seed in range(5):
        scores, tags = sample(200, seed, np.zeros(30))
        assert len(set(fit(scores, tags))) == 1


def test_many_images_get_thresholds_of_their_own() -> None:
    shifts = np.array([0.6, -0.6, 0.0, 0.3])
    thresholds = fit(*sample(20_000, 0, shifts))
    assert thresholds[0] > thresholds[2] > thresholds[1]
    scores, tags = sample(20_000, 1, shifts)
    common = max(f1(scores, tags, np.full(4, t)) for t in np.linspace(0.05, 0.95, 19))
    assert f1(scores, tags, thresholds) > common + 0.02


def test_cross_validated_f1_is_that_on_new_images() -> None:
    shifts = np.zeros(30)
    expected, measured, flattering = [], [], []
    for seed in range(10):
        scores, tags = sample(150, seed, shifts)
        thresholds = fit(scores, tags)
        metrics = threshold_selection.cross_validated_f1(scores, tags, np.ones_like(tags))
        assert set(metrics) == {"cross_validated_micro_f1", "cross_validated_macro_f1"}
        expected.append(metrics["cross_validated_micro_f1"])
        flattering.append(f1(scores, tags, thresholds))
        measured.append(f1(*sample(5_000, 100 + seed, shifts), thresholds))
    assert np.mean(expected) == pytest.approx(np.mean(measured), abs=0.02)
    assert np.mean(flattering) > np.mean(expected)


def test_unknown_tags_are_left_out() -> None:
    scores, tags = sample(300, 0, np.zeros(5))
    known = np.random.RandomState(1).uniform(size=tags.shape) < 0.7
    other = np.where(known, tags, ~tags)
    for select in (threshold_selection.fit_thresholds, threshold_selection.cross_validated_f1):
        left, right = (select(scores, labels, known) for labels in (tags, other))
        assert np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right


def test_one_image_is_enough() -> None:
    scores, tags = np.array([[0.9, 0.2]]), np.array([[True, False]])
    thresholds = fit(scores, tags)
    assert (scores >= thresholds).tolist() == [[True, False]]
    assert threshold_selection.cross_validated_f1(scores, tags, np.ones_like(tags)) == {}
