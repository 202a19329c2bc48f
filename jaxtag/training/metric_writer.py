"""Metric writers: where the numbers of a run go. JSON lines, TensorBoard and progress are built in.

`config.metric_writers` lists them by registered name or `package.module:Name`; `jaxtag.fit` takes
objects as well. A writer of one's own derives from `MetricWriter` and overrides what it needs.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tqdm import tqdm

from jaxtag import registry
from jaxtag.config.schema import Config
from jaxtag.errors import printable, write_error
from jaxtag.storage import store_errors
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.growing_file import GrowingFile


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """The run that a writer writes for.

    Attributes:
        workdir: the work directory.
        start_step: the step from which this process goes on; what an interrupted run wrote beyond
            it is written again.
        total_steps: the last step.
        config: the resolved configuration.
    """

    workdir: Path
    start_step: int
    total_steps: int
    config: Config


class MetricWriter:
    """Receives the metrics of a run, on process 0 alone. Every method may be left out.

    Attributes:
        keeps: whether what it writes stays. Such a writer is not opened for a finished run that is
            started again, which would write its evaluation twice.
    """

    keeps: ClassVar[bool] = True

    def open(self, run: RunInfo) -> None:
        """Called once, before the first step."""

    def write_scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Named numbers of a step; `split` is "train" or "evaluation"."""

    def write_image(self, step: int, name: str, image: np.ndarray, caption: str) -> None:
        """A sample prediction: image uint8 [H, W, 3] and the model's answer."""

    def write_text(self, text: str) -> None:
        """A message for the user."""

    def flush(self) -> None:
        """Called before each checkpoint: what was written must survive the end of the process."""

    def close(self) -> None:
        """Called once, at the end; flushes what is buffered."""


class MultiWriter(MetricWriter):
    """Several writers as one."""

    def __init__(self, writers: Sequence[MetricWriter]):
        self._writers = list(writers)

    def open(self, run: RunInfo) -> None:
        for writer in self._writers:
            writer.open(run)

    def write_scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, split, values)

    def write_image(self, step: int, name: str, image: np.ndarray, caption: str) -> None:
        for writer in self._writers:
            writer.write_image(step, name, image, caption)

    def write_text(self, text: str) -> None:
        for writer in self._writers:
            writer.write_text(text)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes every writer, and then raises the first error of them."""
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)


class JsonlMetricWriter(MetricWriter):
    """`metrics.jsonl`: an object a line, with `step`, `split` and named numbers."""

    FILE = "metrics.jsonl"

    def __init__(self) -> None:
        self._path = Path(self.FILE)
        self._file: GrowingFile | None = None

    def open(self, run: RunInfo) -> None:
        self._path = run.workdir / self.FILE
        _drop_after(self._path, run.start_step)
        with _storage_errors(self._path):
            self._file = GrowingFile(self._path)

    def write_scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        assert self._file is not None, "open comes first"
        line = {"step": step, "split": split, **{name: float(v) for name, v in values.items()}}
        with _storage_errors(self._path):
            self._file.write((json.dumps(line) + "\n").encode())

    def flush(self) -> None:
        assert self._file is not None, "open comes first"
        with _storage_errors(self._path):
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with _storage_errors(self._path):
                self._file.close()


class TensorBoardWriter(MetricWriter):
    """TensorBoard event files in `board/`, written without TensorFlow.

    Each event is written at once, by the thread that calls: tensorboardX's SummaryWriter leaves
    that to a thread of its own, and waits for ever once that has met a full disk.
    """

    FOLDER = "board"

    def __init__(self) -> None:
        self._path = Path(self.FOLDER)
        self._file: GrowingFile | None = None

    def open(self, run: RunInfo) -> None:
        folder = run.workdir / self.FOLDER
        with _storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
            paths = (folder / f"{name}.{number}" for number in itertools.count())
            self._path = next(path for path in paths if not path.exists())
            self._file = GrowingFile(self._path, new=True)
        self._write(Event(file_version="brain.Event:2"), 0)
        # TensorBoard hides points of earlier event files from this step on, so that steps that a
        # run computes again, from a checkpoint or from the first one, do not show twice.
        start = SessionLog(status=SessionLog.START)
        self._write(Event(session_log=start), run.start_step + 1)

    def write_scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(Event(summary=summary.scalar(f"{split}/{name}", float(value))), step)

    def write_image(self, step: int, name: str, image: np.ndarray, caption: str) -> None:
        self._write(Event(summary=summary.image(name, image, dataformats="HWC")), step)
        self._write(Event(summary=summary.text(name, caption)), step)

    def flush(self) -> None:
        assert self._file is not None, "open comes first"
        with _storage_errors(self._path):
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            with _storage_errors(self._path):
                self._file.close()

    def _write(self, event: Event, step: int) -> None:
        """Appends an event as a TFRecord: its length and itself, each with a check sum."""
        assert self._file is not None, "open comes first"
        event.wall_time, event.step = time.time(), step
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        with _storage_errors(self._path):
            self._file.write(b"".join((length, next(checks), data, next(checks))))


class ProgressWriter(MetricWriter):
    """A progress bar on a terminal, a line for each log window elsewhere; on stderr.

    A stderr that cannot be written to any more (a closed terminal, a full disk) does not end a run.
    """

    keeps = False

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._total = 0

    def open(self, run: RunInfo) -> None:
        self._total = run.total_steps
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=run.total_steps, initial=run.start_step, unit="step", dynamic_ncols=True
            )

    def write_scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        if split != "train":
            return
        text = (
            f"loss {values['loss']:.3f}, {values['images_per_second']:.1f} images/s, "
            f"waiting for data {values['data_wait_fraction']:.0%}"
        )
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.update(step - self._bar.n)
                self._bar.set_postfix_str(text)
        else:
            left = _duration((self._total - step) * values["seconds_per_step"])
            self.write_text(f"step {step}/{self._total}: {text}, {left} left")

    def write_text(self, text: str) -> None:
        with contextlib.suppress(OSError):
            tqdm.write(printable(text), file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def from_config(config: Config) -> list[MetricWriter]:
    """The writers that `config.metric_writers` names, not yet opened."""
    field = "config.metric_writers"
    return [registry.resolve("metric_writer", name, field)() for name in config.metric_writers]


def read_metrics(workdir: Path, split: str) -> list[dict[str, float]]:
    """The lines of a split in `metrics.jsonl`; lines that are cut off or damaged are left out."""
    entries = (entry for _, entry in _entries(workdir / JsonlMetricWriter.FILE))
    return [entry for entry in entries if entry.get("split") == split]


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """An error of the disk or the store becomes a UserError that names the file."""
    try:
        yield
    except Exception as error:
        if (line := store_errors.as_user_error(error, path, verb="written")) is not None:
            raise line from error
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


def _drop_after(path: Path, step: int) -> None:
    """Removes the lines of later steps, and a last line that a kill cut off."""
    if path.exists():
        write_text(
            path, "".join(f"{line}\n" for line, entry in _entries(path) if entry["step"] <= step)
        )


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sound lines of a file, each as text and as the object with a step that it is."""
    data = path.read_bytes() if path.exists() else b""
    for line in data.splitlines():
        try:
            text = line.decode()
            entry = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and type(entry.get("step")) is int:
            yield text, entry


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
