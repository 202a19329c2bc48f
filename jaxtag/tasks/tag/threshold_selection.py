"""Chooses the thresholds from which tags are given, so that they hold on images not seen yet.

A threshold that is best for a tag on a few images lies wherever their scores happen to, and a tag
with a threshold near 0 goes to every new image (Lipton et al. 2014, arXiv:1402.1892). So each tag's
counts are pooled with those of all tags, which pulls its threshold towards the common one, the more
the fewer images have the tag; and thresholds of their own are used only where cross-validation
finds them better than one for all (Corel-5K's figures: benchmarks/README.md).
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence

import numpy as np

_MAX_CANDIDATES = 256  # thresholds that are tried
_FOLDS = 10
_STANDARD_ERRORS = 2.0  # by which a gain must exceed 0
_MIN_FOLDS = 3  # below which nothing can be said of a standard error
_STRENGTH = 250.0  # images with an average tag, whose counts are added to each tag's


@dataclasses.dataclass(frozen=True)
class Counts:
    """What each threshold would do; counts of disjoint images may be added and taken away.

    Attributes:
        predicted: int [T, K], images with at least that score for a tag.
        right: int [T, K], those of them that have the tag.
        present: int [T], images that have it.
    """

    predicted: np.ndarray
    right: np.ndarray
    present: np.ndarray

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.predicted + other.predicted, self.right + other.right, self.present + other.present
        )

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(
            self.predicted - other.predicted, self.right - other.right, self.present - other.present
        )

    def at(self, index: np.ndarray) -> np.ndarray:
        """Counts [3, T] (predicted, right, present) where tag t has threshold index[t]."""
        tags = np.arange(len(index))
        return np.stack([self.predicted[tags, index], self.right[tags, index], self.present])


def fit_thresholds(scores: np.ndarray, tags: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The thresholds float [T] of the best F1 to be expected on other images.

    Args:
        scores: float [N, T].
        tags: bool [N, T], present; some tag must be, and known.
        known: bool [N, T]; the rest is left out.
    """
    thresholds, folds = count(scores, tags, known)
    return thresholds[_fit(folds)]


def cross_validated_f1(scores: np.ndarray, tags: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """The F1 to expect on other images: `cross_validated_micro_f1`, `cross_validated_macro_f1`.

    Each tenth of the images is judged by thresholds that the other nine chose. F1 on the images
    that chose the thresholds is too high. Empty where there are too few images. Arguments as of
    `fit_thresholds`.
    """
    if len(scores) < 2 or not (tags & known).any():
        return {}
    _, folds = count(scores, tags, known)
    judged = [fold.at(_fit([other for other in folds if other is not fold])) for fold in folds]
    predicted, right, present = np.sum(judged, axis=0)
    f1 = 2 * right / np.maximum(predicted + present, 1)
    return {
        "cross_validated_micro_f1": float(
            2 * right.sum() / max(predicted.sum() + present.sum(), 1)
        ),
        "cross_validated_macro_f1": float(f1[present > 0].mean()),
    }


def count(
    scores: np.ndarray, tags: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, list[Counts]]:
    """The thresholds to try, float [K], and the counts of each fold: image i is in fold i % 10."""
    present = tags & known
    thresholds = _candidates(scores[known], scores[present])
    num_tags, num_bins = scores.shape[1], len(thresholds) + 1
    bins = np.searchsorted(thresholds, scores, side="right") + num_bins * np.arange(num_tags)

    def at_least(bins: np.ndarray) -> np.ndarray:
        counts = np.bincount(bins, minlength=num_tags * num_bins).reshape(num_tags, num_bins)
        return counts[:, ::-1].cumsum(1)[:, -2::-1]

    folds = [slice(fold, None, _FOLDS) for fold in range(min(_FOLDS, len(scores)))]
    return thresholds, [
        Counts(
            at_least(bins[fold][known[fold]]),
            at_least(bins[fold][present[fold]]),
            present[fold].sum(0),
        )
        for fold in folds
    ]


def choose(counts: Counts, strength: float) -> np.ndarray:
    """The index of each tag's threshold, its counts pooled with `strength` images of all tags.

    With infinitely many the thresholds are the same.
    """
    all_present = max(counts.present.sum(), 1)
    predicted, right = counts.predicted.sum(0) / all_present, counts.right.sum(0) / all_present
    if np.isinf(strength):
        return np.full(len(counts.present), np.argmax(right / (predicted + 1)))
    f1 = (counts.right + strength * right) / (
        counts.predicted + strength * predicted + (counts.present + strength)[:, None]
    )
    return f1.argmax(1)


def _candidates(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Thresholds half way between the score of an image that has a tag and the next below.

    Between them F1 only falls.
    """
    values = np.unique(present)
    if len(values) > _MAX_CANDIDATES:
        steps = np.linspace(0, 1, _MAX_CANDIDATES)
        values = np.unique(np.quantile(values, steps, method="nearest"))
    ordered = np.concatenate([[0.0], np.unique(scores)])
    below = ordered[np.searchsorted(ordered[1:], values)]
    return (values + below) / 2


def _fit(folds: Sequence[Counts]) -> np.ndarray:
    """The index of each tag's threshold.

    Thresholds of their own must be better by cross-validation than a common one, by more than
    two standard errors.
    """
    total = functools.reduce(operator.add, folds)
    if len(folds) < _MIN_FOLDS:
        return choose(total, np.inf)
    own, common = (
        np.stack([fold.at(choose(total - fold, strength)).sum(1) for fold in folds], axis=1)
        for strength in (_STRENGTH, np.inf)
    )
    return choose(total, _STRENGTH if _certain_gain(own, common) > 0 else np.inf)


def _certain_gain(counts: np.ndarray, common: np.ndarray) -> float:
    """By how much micro F1 is better than with a common threshold, less two standard errors.

    Args:
        counts, common: [3, F] (predicted, right, present) of each fold.
    """

    def f1_and_parts(counts: np.ndarray) -> tuple[float, np.ndarray]:
        predicted, right, present = counts
        total = max((predicted + present).sum(), 1)
        f1 = 2 * right.sum() / total
        return f1, (
            2 * right - f1 * (predicted + present)
        ) / total  # each fold's share of its error

    (f1, parts), (common_f1, common_parts) = map(f1_and_parts, (counts, common))
    error = np.std(parts - common_parts, ddof=1) * np.sqrt(len(parts))
    return float(f1 - common_f1 - _STANDARD_ERRORS * error)
