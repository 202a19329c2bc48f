"""How the logits of a tagger become scores and tags; chosen on validation, kept with the run."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError


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
    def plain(cls, tags: int) -> "TagCalibration":
        """The logits as they are, and a threshold of a half."""
        return cls(1.0, 0.0, (0.5,) * tags)

    def save(self, path: Path, names: Sequence[str]) -> None:
        """Writes JSON; `names` are those of the tags."""
        thresholds = dict(zip(names, self.thresholds, strict=True))
        values = {"scale": self.scale, "shift": self.shift, "thresholds": thresholds}
        try:
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(".partial")
            text = json.dumps(values, indent=2, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path, names: Sequence[str]) -> "TagCalibration":
        """What `save` wrote. Raises UserError where the file is damaged or of other tags."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
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
    """Where the decisions for the checkpoint of a step lie."""
    return workdir / "thresholds" / f"{step}.json"


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no number")
    return float(value)
