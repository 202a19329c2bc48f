"""Metrics of tagging: equal to scikit-learn's, to hand-made examples, and to plain readings."""

import json

import numpy as np
import pytest
from stored import REFERENCES

from jaxtag.metrics import multilabel
from jaxtag.tasks.tag.calibration import calibrated_scores, fit_calibration

STORED = json.loads((REFERENCES / "tagging.json").read_text())
SCORES = np.array(STORED["scores"])
TAGS = np.array(STORED["tags"], bool)
KNOWN = np.array(STORED["known"], bool)
THRESHOLDS = np.array(STORED["thresholds"])


def test_average_precision_equals_scikit_learn_with_ties_and_unknown_labels() -> None:
    precisions = multilabel.average_precisions(SCORES, TAGS, KNOWN)
    expected = STORED["average_precision"]
    np.testing.assert_allclose(precisions[:-1], expected, atol=1e-12)
    assert np.isnan(precisions[-1])  # no picture has the last tag
    assert multilabel.ranking_metrics(SCORES, TAGS, KNOWN)["map"] == pytest.approx(
        np.mean(expected)
    )


def test_decisions_equal_scikit_learn() -> None:
    metrics = multilabel.per_class_metrics(SCORES, TAGS, KNOWN, THRESHOLDS)
    for name in ("precision", "recall", "f1"):
        np.testing.assert_allclose(metrics[name][:-1], STORED[name], atol=1e-12)
    means = multilabel.threshold_metrics(metrics)
    assert means["micro_f1"] == pytest.approx(STORED["micro_f1"], abs=1e-12)
    assert means["macro_f1"] == pytest.approx(np.mean(STORED["f1"]), abs=1e-12)


def test_eleven_points_by_hand() -> None:
    """Right at ranks 1, 3 and 10 of 10: a precision of 1 up to recall 1/3, 2/3 up to 2/3, 0.3."""
    present = np.isin(np.arange(1, 11), (1, 3, 10))[:, None]
    scores = np.linspace(1, 0, 10)[:, None]
    precisions = multilabel.average_precisions(
        scores, present, np.ones_like(present), eleven_points=True
    )
    assert precisions[0] == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 3 / 10) / 11)
    plain = multilabel.average_precisions(scores, present, np.ones_like(present))
    assert plain[0] == pytest.approx((1 + 2 / 3 + 3 / 10) / 3)


def test_eleven_points_meet_a_recall_of_three_tenths() -> None:
    """In floating point 3 / 10 is less than 3 * 0.1."""
    present = np.arange(20)[:, None] < 3
    present[-7:] = True
    scores = np.linspace(1, 0, 20)[:, None]
    precisions = multilabel.average_precisions(
        scores, present, np.ones_like(present), eleven_points=True
    )
    assert precisions[0] == pytest.approx((4 * 1 + 7 * 10 / 20) / 11)


def test_at_k_by_hand() -> None:
    """Three pictures are given two tags each; of equal scores the lower number comes first."""
    scores = np.array([[0.9, 0.8, 0.1, 0.0], [0.5, 0.5, 0.5, 0.1], [0.1, 0.2, 0.3, 0.9]])
    tags = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 0]], bool)
    metrics = multilabel.metrics_at_k(scores, tags, np.ones_like(tags), k=2)
    # given: {0, 1}, {0, 1}, {3, 2}; the last tag is one that no picture has.
    precision, recall = (2 / 2 + 1 / 2 + 1 / 1) / 3, (2 / 2 + 1 / 1 + 1 / 2) / 3
    assert metrics == {
        "precision@2": pytest.approx(precision),
        "recall@2": pytest.approx(recall),
        "f1@2": pytest.approx(2 * precision * recall / (precision + recall)),
        "n+": 3.0,
    }
    known = np.ones_like(tags)
    known[0, 1] = False  # given to the first picture, but nobody knows: no fault any more
    assert multilabel.metrics_at_k(scores, tags, known, k=2)["precision@2"] == pytest.approx(1.0)


def test_no_positives_at_all_is_no_division_by_zero() -> None:
    none = np.zeros_like(TAGS)
    metrics = multilabel.ranking_metrics(SCORES, none, KNOWN)
    metrics |= multilabel.threshold_metrics(
        multilabel.per_class_metrics(SCORES, none, KNOWN, THRESHOLDS)
    )
    assert set(metrics.values()) == {0.0}
    assert fit_calibration(SCORES, none, KNOWN).thresholds == (0.5,) * TAGS.shape[1]


def test_calibration_error_by_hand() -> None:
    scores = np.array([[0.31, 0.32], [0.9, 1.0]])
    tags = np.array([[0, 1], [1, 0]], bool)
    error = multilabel.calibration_error(scores, tags, np.ones_like(tags))
    assert error == pytest.approx((abs(0.63 - 1) + abs(0.9 - 1) + abs(1.0 - 0)) / 4)


def test_the_common_threshold_has_the_best_f1() -> None:
    logits = np.log(SCORES + 0.1)
    decisions = fit_calibration(logits, TAGS, KNOWN)
    scores = calibrated_scores(logits, decisions.scale, decisions.shift)

    def micro_f1(thresholds: np.ndarray) -> float:
        rates = multilabel.per_class_metrics(scores, TAGS, KNOWN, thresholds)
        return multilabel.threshold_metrics(rates)["micro_f1"]

    assert len(set(decisions.thresholds)) == 1  # too few images for thresholds of their own
    best = max(micro_f1(np.full(TAGS.shape[1], value)) for value in np.unique(scores))
    assert micro_f1(np.array(decisions.thresholds)) == pytest.approx(best)


@pytest.mark.parametrize("count", [0, 1, 5, 15])
def test_a_tag_of_few_images_has_the_threshold_of_all(count: int) -> None:
    """A tag that chance gave a low score does not get a threshold that takes every image in."""
    logits, tags = np.log(SCORES + 0.1), TAGS.copy()
    lowest = np.argsort(np.where(KNOWN[:, 0], logits[:, 0], np.inf))
    tags[:, 0] = False
    tags[lowest[:count], 0] = True
    thresholds = fit_calibration(logits, tags, KNOWN).thresholds
    assert thresholds[0] == thresholds[-1]  # no image has the last


def test_calibration_finds_the_scale_that_made_the_labels() -> None:
    rng = np.random.RandomState(0)
    logits = rng.normal(-1.0, 3.0, (20_000, 2))
    known = rng.rand(*logits.shape) < 0.9
    tags = rng.rand(*logits.shape) < calibrated_scores(logits, 0.4, 0.7)
    tags[~known] = True  # what is not known has no say
    calibration = fit_calibration(logits, tags, known)
    assert calibration.scale == pytest.approx(0.4, abs=0.02)
    assert calibration.shift == pytest.approx(0.7, abs=0.03)
    scores = calibrated_scores(logits, calibration.scale, calibration.shift)
    assert multilabel.calibration_error(scores, tags, known) < 0.01
    assert multilabel.calibration_error(calibrated_scores(logits, 1, 0), tags, known) > 0.05


def test_calibration_stays_finite_where_all_is_right() -> None:
    logits = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    calibration = fit_calibration(logits, logits > 0, np.ones_like(logits, bool))
    assert 0.5 < calibration.scale < 1.0 and abs(calibration.shift) < 1e-6
