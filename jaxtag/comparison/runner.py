"""Runs a cell in processes of its own, so that its memory is its own; what is done stays done."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jaxtag import models
from jaxtag.comparison.grid import ARCHITECTURES, DATASETS
from jaxtag.config import schema as configuration
from jaxtag.data import sources
from jaxtag.errors import UserError
from jaxtag.perf import flops

_RESULT = "result.json"
_WANTS_TO_GO_ON = 75  # exit status of a run that saved and wants to be started again


@dataclasses.dataclass(frozen=True)
class Cell:
    """An architecture on a data set, with a budget of training pictures and a seed."""

    architecture: str
    dataset: str
    pictures: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.dataset}-{self.architecture}-{self.pictures}-{self.seed}"

    @property
    def trained(self) -> "Cell":
        """The cell whose run this one judges: itself, or the one that it takes features from."""
        other = ARCHITECTURES[self.architecture].neighbours
        return dataclasses.replace(self, architecture=other) if other else self

    @property
    def judged_by_neighbours(self) -> bool:
        row = ARCHITECTURES[self.architecture]
        return row.embeds or row.neighbours is not None


def skip_reason(cell: Cell, data_dir: str | None) -> str | None:
    """Why a cell cannot be run, in a few words; None where it can."""
    column = DATASETS[cell.dataset]
    try:
        sources.open_split(cell.dataset, "train", data_dir)
        sources.open_split(cell.dataset, column.split, data_dir)
    except UserError:
        return "data absent"
    return None


def run(cell: Cell, folder: Path, data_dir: str | None) -> dict[str, Any]:
    """The result of a cell, run now or before.

    Args:
      folder: of all cells.

    Returns:
      `metric`, `value`, `metrics`, `split`, `image_size`, `pretraining`, `parameters`,
      `multiply_adds`, `seconds`, `peak_memory_bytes` and the cell's own fields.

    Raises:
      UserError: the run failed; the message says where its log is.
    """
    path = folder / cell.name / _RESULT
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    workdir = folder / cell.trained.name
    if cell.trained != cell:
        run(cell.trained, folder, data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    log, seconds, memory = path.parent / "log.txt", 0.0, 0
    if cell.trained == cell:
        argument = ",".join(f"{name}={value}" for name, value in dataclasses.asdict(cell).items())
        flags = [f"--config=compare:{argument}", f"--workdir={workdir}"]
        if data_dir is not None:
            flags.append(f"--config.data.data_dir={data_dir}")
        _, memory = _call("jaxtag.train", flags, log)
        seconds = _training_seconds(workdir)
    metrics = _last_evaluation(workdir)
    if cell.judged_by_neighbours:
        began = time.monotonic()
        text, used = _call("jaxtag.comparison.knn_eval", [str(workdir)], log)
        metrics = json.loads(text.splitlines()[-1])
        seconds, memory = seconds + time.monotonic() - began, max(memory, used)
    result = _result(cell, workdir, metrics) | {"seconds": seconds, "peak_memory_bytes": memory}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return result


def _result(cell: Cell, workdir: Path, metrics: dict[str, float]) -> dict[str, Any]:
    column, config = DATASETS[cell.dataset], configuration.load(workdir)
    source = sources.open_split(cell.dataset, "train", config.data.data_dir)
    classes = len(source.class_names(configuration.label_feature(config)))
    fields = dict(config.model.kwargs)
    if "image_size" in models.field_names(config.model.backbone):
        fields["image_size"] = config.data.image_size
    model = models.create_model(config.model.backbone, num_classes=classes, **fields)
    return {
        **dataclasses.asdict(cell),
        "metric": column.metric,
        "value": metrics[column.metric],
        "metrics": metrics,
        "split": column.split,
        "image_size": config.data.image_size,
        "pretraining": "none",
        "parameters": flops.param_count(model, config.data.image_size),
        "multiply_adds": flops.macs(model, config.data.image_size),
    }


def _call(module: str, arguments: list[str], log: Path) -> tuple[str, int]:
    """Runs a command; (what it printed, its peak memory in bytes). Its stderr goes to `log`.

    The system counts what this process held when it started the command as held there too.
    """
    command, peak = [sys.executable, "-m", module, *arguments], 0
    while True:
        with log.open("ab") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
            try:
                text = process.stdout.read().decode()
            except KeyboardInterrupt:  # the child got it too, and saves
                process.wait()
                raise
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            process.stdout.close()
        peak = max(peak, usage.ru_maxrss * 1024)
        if process.returncode == 0:
            return text, peak
        if process.returncode != _WANTS_TO_GO_ON:
            raise UserError(f"{module} failed with status {process.returncode}: see {log}")


def _lines(workdir: Path) -> list[dict[str, Any]]:
    text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _last_evaluation(workdir: Path) -> dict[str, float]:
    return [line for line in _lines(workdir) if line["split"] == "evaluation"][-1]


def _training_seconds(workdir: Path) -> float:
    """The time of all steps with their compilation, without evaluation, of all parts of a run."""
    seconds, before = 0.0, 0
    for line in _lines(workdir):
        if line["split"] == "train":
            seconds += line["seconds_per_step"] * (line["step"] - before)
            before = line["step"]
    return seconds
