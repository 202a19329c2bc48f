"""Goodput: the share of a run's time that went into steps which count, over all its restarts.

The terms are those of Google's ml-goodput-measurement: what is not goodput is badput, by kind. Each
process start is a segment of `goodput.json`, which process 0 rewrites with every log line.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from jaxtag.errors import UserError
from jaxtag.storage import json_files
from jaxtag.storage.atomic_file import write_text
from jaxtag.tasks.base import Evaluation
from jaxtag.training.callbacks import Callback
from jaxtag.training.metric_writer import MetricWriter
from jaxtag.training.setup import TrainSetup
from jaxtag.training.timer import StartupTimer

FILE = "goodput.json"
BADPUT = (
    "accelerator_initialization",  # imports, joining the job, finding the devices
    "training_preparation",  # opening the data, planning, making the state
    "program_startup",  # tracing and compiling, the first batch and the first step
    "data_loading",  # a device waits for a batch
    "evaluation",
    "checkpoint_save",  # while no step runs
    "checkpoint_restore",
    "wasted_progress",  # steps after the last checkpoint before a kill, which are taken again
    "infrastructure_recovery",  # from the last sign of one process to the start of the next
    "other",
)


@dataclasses.dataclass
class Segment:
    """What one process did from its start on.

    Attributes:
        began: of the process, seconds since the epoch.
        ended: its last sign, likewise.
        first_step: the step from which it went on.
        step: the last step that it took.
        seconds: time by kind of badput.
    """

    began: float
    ended: float
    first_step: int
    step: int
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Report:
    """Shares of a run's time: `goodput`, and `badput` by kind; together they are 1."""

    goodput: float
    badput: dict[str, float]

    def __str__(self) -> str:
        parts = sorted(self.badput.items(), key=lambda item: -item[1])
        text = ", ".join(f"{kind.replace('_', ' ')} {share:.1%}" for kind, share in parts if share)
        return f"goodput {self.goodput:.1%}" + (f"; {text}" if text else "")


def report(segments: Sequence[Segment]) -> Report:
    """The shares of all time from the first start to the last sign.

    A segment's time that is no badput is its steps'. Of these, those beyond the step from which the
    next segment goes on are wasted.
    """
    seconds = dict.fromkeys(BADPUT, 0.0)
    productive = 0.0
    for segment, successor in zip(segments, [*segments[1:], None], strict=True):
        for kind, value in segment.seconds.items():
            seconds[kind] += value
        stepping = max(0.0, segment.ended - segment.began - sum(segment.seconds.values()))
        if successor is not None:
            seconds["infrastructure_recovery"] += max(0.0, successor.began - segment.ended)
            steps = segment.step - segment.first_step
            lost = min(steps, max(0, segment.step - successor.first_step))
            wasted = stepping * lost / steps if steps else 0.0
            seconds["wasted_progress"] += wasted
            stepping -= wasted
        productive += stepping
    total = max(productive + sum(seconds.values()), 1e-9)
    return Report(productive / total, {kind: value / total for kind, value in seconds.items()})


class GoodputRecorder(Callback, MetricWriter):
    """Records the segment of this process: its phases as a callback, as a writer at each log line.

    What passes between two calls belongs to the later one: an evaluation, a save, a step.

    Args:
        workdir: its `goodput.json` has the earlier segments.
        startup: the phases before the first step.
    """

    def __init__(self, workdir: Path, startup: StartupTimer):
        self._path, self._startup = workdir / FILE, startup
        try:
            self._earlier = load(self._path)
        except UserError as error:  # no reason not to train
            logging.warning("%s; goodput is counted from this start on", error)
            self._earlier = []
        began = time.time() - startup.seconds
        self._segment = Segment(began, began, 0, 0, {})
        self._last, self._logged = time.perf_counter(), 0

    def on_start(self, setup: TrainSetup, workdir: Path, step: int) -> None:
        self._segment.first_step = self._segment.step = self._logged = step
        state = "checkpoint_restore" if step else "training_preparation"
        kinds = {"imports": "accelerator_initialization", "state": state}
        for phase, seconds in self._startup.parts.items():
            self._add(kinds.get(phase, "training_preparation"), seconds)
        self._lap()

    def on_step(self, step: int, state: Any, metrics: dict[str, Any]) -> None:
        seconds = self._lap()
        if step == self._segment.first_step + 1:
            self._add("program_startup", seconds)
        self._segment.step = step

    def on_evaluation(self, step: int, evaluation: Evaluation) -> None:
        self._add("evaluation", self._lap())

    def on_checkpoint(self, step: int) -> None:
        self._add("checkpoint_save", self._lap())

    def write_scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        if split == "train":
            seconds = values["seconds_per_step"] * (step - self._logged)
            self._add("data_loading", values["data_wait_fraction"] * seconds)
            self._logged = step
            self._write()

    def close(self) -> None:
        self._write()

    def report(self) -> Report:
        """The shares of the run up to now, with all earlier processes."""
        return report(self._segments())

    @property
    def hours(self) -> float:
        """From the start of the first process until now."""
        segments = self._segments()
        return (segments[-1].ended - segments[0].began) / 3600

    def _segments(self) -> list[Segment]:
        self._segment.ended = time.time()
        return [*self._earlier, self._segment]

    def _write(self) -> None:
        values = [dataclasses.asdict(segment) for segment in self._segments()]
        write_text(self._path, json.dumps(values, indent=1) + "\n")

    def _add(self, kind: str, seconds: float) -> None:
        self._segment.seconds[kind] = self._segment.seconds.get(kind, 0.0) + seconds

    def _lap(self) -> float:
        """Seconds since the last call."""
        previous, self._last = self._last, time.perf_counter()
        return self._last - previous


def load(path: Path) -> list[Segment]:
    """The segments of a `goodput.json`; none where there is no file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        return [Segment(**values) for values in json_files.read(path)]
    except TypeError as error:
        raise UserError(f"{path} is damaged: not segments of a run") from error
