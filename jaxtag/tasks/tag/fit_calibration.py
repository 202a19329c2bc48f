"""From the logits of a validation split to calibrated scores and a threshold for each tag."""

import numpy as np
import scipy.optimize
import scipy.special

from jaxtag.metrics import multilabel
from jaxtag.tasks.tag.calibration import TagCalibration

_FEW = 5  # pictures with a tag, of which no threshold of its own can be told


def fit_calibration(logits: np.ndarray, tags: np.ndarray, known: np.ndarray) -> TagCalibration:
    """Calibration, then for each tag the threshold of its best F1.

    A tag that few pictures have gets the one threshold that is best for all tags together: the
    best F1 over one or two lies wherever their scores happen to, and a threshold near 0 gives a
    rare tag to every picture (Lipton et al. 2014, arXiv:1402.1892).

    Args:
      logits: float [N, T].
      tags: bool [N, T], present.
      known: bool [N, T]; the rest is left out.
    """
    present = tags & known
    if not present.any():
        return TagCalibration.plain(logits.shape[1])
    scale, shift = _calibration(logits[known], tags[known])
    values = calibrated_scores(logits, scale, shift)
    usual = _threshold(values[known], tags[known])
    thresholds = [
        _threshold(column[rows], truth[rows]) if truth[rows].sum() >= _FEW else usual
        for column, truth, rows in zip(values.T, tags.T, known.T, strict=True)
    ]
    return TagCalibration(scale, shift, tuple(thresholds))


def calibrated_scores(logits: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """Scores, float64 in the shape of `logits`."""
    return scipy.special.expit(scale * logits.astype(np.float64) + shift)


def _calibration(logits: np.ndarray, present: np.ndarray) -> tuple[float, float]:
    """Scale (above 0) and shift of the least cross-entropy (Platt 1999, section 2.2).

    Platt's targets, a little inside of 0 and 1, keep the scale finite where all is right.
    """
    logits = logits.astype(np.float64)
    positives, negatives = present.sum(), (~present).sum()
    targets = np.where(present, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.exp(parameters[0])
        z = scale * logits + parameters[1]
        error = scipy.special.expit(z) - targets
        gradient = np.array([scale * (error * logits).mean(), error.mean()])
        return (np.logaddexp(0.0, z) - targets * z).mean(), gradient

    found = scipy.optimize.minimize(objective, np.zeros(2), jac=True, method="BFGS")
    return float(np.exp(found.x[0])), float(found.x[1])


def _threshold(scores: np.ndarray, present: np.ndarray) -> float:
    """Half way between the lowest score that the best F1 takes in and the next below."""
    values, right, given = multilabel.ranked(scores, present)
    best = int(np.argmax(right / (given + right[-1])))
    below = values[best + 1] if best + 1 < len(values) else 0.0
    return float((values[best] + below) / 2)
