"""What a run tells: metrics.jsonl, TensorBoard files, a progress bar or quiet lines."""

import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from jaxtag.training.tensorboard import TensorBoardWriter


class MetricWriter:
    """Writes the numbers of a run into its work directory and shows its progress.

    On a terminal there is a progress bar; on a log file one line for each window.

    Args:
      workdir: holds `metrics.jsonl` and `board/`.
      step: where the run starts; what an interrupted run had written beyond it is dropped, since
        it will be written again.
      total: the last step.
      write: False on all processes but one.
    """

    def __init__(self, workdir: Path, step: int, total: int, write: bool = True):
        self._file = self._board = self._bar = None
        self._show = write
        self._total = total
        if not write:
            return
        path = workdir / "metrics.jsonl"
        _drop_after(path, step)
        self._file = path.open("a", encoding="utf-8")
        self._board = TensorBoardWriter(workdir / "board", purge_step=step + 1 if step else None)
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True)

    def say(self, text: str) -> None:
        """A message for the user, on stderr (stdout is for results)."""
        if self._show:
            tqdm.write(text, file=sys.stderr)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Adds one object to metrics.jsonl and a point to each TensorBoard curve."""
        if self._file is None:
            return
        line = {"step": step, "split": split, **{name: float(v) for name, v in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._board.scalars(step, {f"{split}/{name}": value for name, value in values.items()})

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Shows loss, speed, time left and the share of time spent waiting for data."""
        left = (self._total - step) * values["seconds_per_step"]
        shown = (
            f"loss {values['loss']:.3f}, {values['images_per_second']:.1f} images/s, "
            f"waiting for data {values['data_wait']:.0%}"
        )
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(shown)
        else:
            self.say(f"step {step}/{self._total}: {shown}, {_duration(left)} left")

    def picture(self, step: int, name: str, image: np.ndarray, caption: str) -> None:
        """Adds a captioned picture, uint8 [H, W, 3], to the TensorBoard files."""
        if self._board is not None:
            self._board.image(step, name, image, caption)

    def close(self) -> None:
        """Writes what is still in memory."""
        for part in (self._bar, self._board, self._file):
            if part is not None:
                part.close()


def _drop_after(path: Path, step: int) -> None:
    """Removes the lines of later steps, and a last line that a kill cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["step"] <= step:
            kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
