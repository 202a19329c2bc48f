"""Goodput: the share of a run's time that went into steps which count, over all its restarts.

The terms are those of Google's ml-goodput-measurement: what is not goodput is badput, by kind. Each
process start is a segment of `goodput.json`, which process 0 rewrites with every log line.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging

from jaxtag.errors import UserError
from jaxtag.storage import json_files
from jaxtag.storage.atomic_file import write_text

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


class GoodputRecorder:
    """Records the present segment.

    Args:
        workdir: its `goodput.json` has the earlier segments.
        began: start of the process, seconds since the epoch.
    """

    def __init__(self, workdir: Path, began: float):
        self._path = workdir / FILE
        try:
            self._earlier = load(self._path)
        except UserError as error:  # no reason not to train
            logging.warning("%s; goodput is counted from this start on", error)
            self._earlier = []
        self._segment = Segment(began, began, 0, 0, {})

    def start(self, first_step: int) -> None:
        """Sets the step from which this process goes on."""
        self._segment.first_step = self._segment.step = first_step

    def add(self, kind: str, seconds: float) -> None:
        """Adds time to a kind of badput."""
        assert kind in BADPUT, kind
        self._segment.seconds[kind] = self._segment.seconds.get(kind, 0.0) + seconds

    @contextlib.contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Adds the time within to a kind of badput."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - began)

    def write(self, step: int) -> Report:
        """Writes the segment up to `step`, and returns the report of the run."""
        self._segment.step, self._segment.ended = step, time.time()
        segments = [*self._earlier, self._segment]
        values = [dataclasses.asdict(segment) for segment in segments]
        write_text(self._path, json.dumps(values, indent=1) + "\n")
        return report(segments)


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
