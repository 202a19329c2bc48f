"""Calibration of a tagger: from logits to scores and tags, fitted on validation data."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special

from jaxtag.errors import UserError
from jaxtag.storage import json_files
from jaxtag.storage.atomic_file import write_text
from jaxtag.tasks.tag import threshold_selection


@dataclasses.dataclass(frozen=True)
class TagCalibration:
    """A score is sigmoid(scale * logit + shift); a tag is given from its threshold on.

    Attributes:
        scale, shift: of calibration (Platt 1999, section 2.2), the same for all tags.
        thresholds: of the scores, one a tag.
    """

    scale: float
    shift: float
    thresholds: tuple[float, ...]

    @classmethod
    def identity(cls, num_tags: int) -> "TagCalibration":
        """The logits as they are, and a threshold of a half."""
        return cls(1.0, 0.0, (0.5,) * num_tags)

    def save(self, path: Path, names: Sequence[str]) -> None:
        """Writes JSON; `names` are those of the tags."""
        thresholds = dict(zip(names, self.thresholds, strict=True))
        values = {"scale": self.scale, "shift": self.shift, "thresholds": thresholds}
        write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path, names: Sequence[str]) -> "TagCalibration":
        """What `save` wrote. Raises UserError where the file is damaged or of other tags."""
        values = json_files.read(path)
        try:
            thresholds = values["thresholds"]
            if list(thresholds) != list(names):
                raise UserError(f"{path} is of other tags than this run has: delete it")
            numbers = map(_number, thresholds.values())
            return cls(_number(values["scale"]), _number(values["shift"]), tuple(numbers))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged ({error}): delete it, and jaxtag.evaluate makes it again"
            ) from error


def calibration_path(workdir: Path, step: int) -> Path:
    """The file of the calibration for the checkpoint of a step."""
    return workdir / "thresholds" / f"{step}.json"


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no number")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def fit_calibration(logits: np.ndarray, tags: np.ndarray, known: np.ndarray) -> TagCalibration:
    """Fits the calibration, then the thresholds: `threshold_selection.fit_thresholds`.

    Args:
        logits: float [N, T].
        tags: bool [N, T], present.
        known: bool [N, T]; the rest is left out.
    """
    present = tags & known
    if not present.any():
        return TagCalibration.identity(logits.shape[1])
    scale, shift = _calibration(logits[known], tags[known])
    scores = calibrated_scores(logits, scale, shift)
    thresholds = threshold_selection.fit_thresholds(scores, tags, known)
    return TagCalibration(scale, shift, tuple(thresholds.tolist()))


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

    result = scipy.optimize.minimize(objective, np.zeros(2), jac=True, method="BFGS")
    return float(np.exp(result.x[0])), float(result.x[1])
