"""Runs a cell in processes of its own, so that its peak memory is its own; results are kept."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jaxtag import models
from jaxtag.comparison.grid import ARCHITECTURES, DATASETS
from jaxtag.config import serialization
from jaxtag.datasets import prepared
from jaxtag.errors import UserError
from jaxtag.perf import flops
from jaxtag.storage import json_files
from jaxtag.storage.atomic_file import write_text
from jaxtag.training.metric_writer import read_metrics
from jaxtag.training.preemption import RESTART_STATUS
from jaxtag.training.run_data import task_class
from jaxtag.weights.reference import resolve

_RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class Cell:
    """An architecture on a data set, with a budget of training images and a seed.

    Attributes:
        weights: REF of a pretrained row's weights; "" for its own.
    """

    architecture: str
    dataset: str
    num_images: int
    seed: int
    weights: str = ""

    @property
    def name(self) -> str:
        """Name of its folder; other weights have another one."""
        name = f"{self.dataset}-{self.architecture}-{self.num_images}-{self.seed}"
        digest = hashlib.sha256(self.weights.encode()).hexdigest()
        return f"{name}-{digest[:8]}" if self.weights else name

    @property
    def trained(self) -> "Cell":
        """The cell whose run this one evaluates: itself, or the one whose features it uses."""
        other = ARCHITECTURES[self.architecture].features_of
        return dataclasses.replace(self, architecture=other) if other else self


def skip_reason(cell: Cell, data_dir: str | None) -> str | None:
    """Why a cell cannot run, in a few words; None where it can."""
    try:
        prepared.open_split(cell.dataset, "train", data_dir)
        prepared.open_split(cell.dataset, DATASETS[cell.dataset].split, data_dir)
    except UserError:
        return "data absent"
    pretrained = cell.weights or ARCHITECTURES[cell.architecture].pretrained
    try:
        if pretrained:
            resolve(pretrained)
    except UserError:
        return "weights absent"
    return None


def run(cell: Cell, folder: Path, data_dir: str | None) -> dict[str, Any]:
    """Runs a cell, unless it has a result from before; an interrupted run goes on.

    Args:
        cell: To run.
        folder: Of all cells.
        data_dir: Where data sets are kept; None for the default.

    Returns:
        `metric`, `value`, `metrics`, `split`, `image_size`, `pretraining`, `parameters`,
        `multiply_adds`, `seconds`, `peak_memory_bytes`, and `architecture`, `dataset`, `pictures`,
        `seed` of the cell.

    Raises:
        UserError: The run failed; the message has the path of its log.
    """
    path = folder / cell.name / _RESULT
    if path.exists():
        return _read_result(path)
    workdir = folder / cell.trained.name
    if cell.trained != cell:
        run(cell.trained, folder, data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    log, seconds, memory = path.parent / "log.txt", 0.0, 0
    if cell.trained == cell:
        memory = _train(cell, workdir, data_dir, log)
        seconds = _training_seconds(workdir)
    metrics = _last_evaluation(workdir)
    if ARCHITECTURES[cell.architecture].uses_neighbors:
        start = time.monotonic()
        output, knn_memory = _call("jaxtag.comparison.knn_eval", [str(workdir)], log)
        metrics = json.loads(output.splitlines()[-1])
        seconds, memory = seconds + time.monotonic() - start, max(memory, knn_memory)
    result = _result(cell, workdir, metrics) | {"seconds": seconds, "peak_memory_bytes": memory}
    write_text(path, json.dumps(result, indent=2) + "\n")
    return result


def _read_result(path: Path) -> dict[str, Any]:
    """The result of a cell from before. Raises UserError where it is damaged."""
    result = json_files.read(path)
    if not isinstance(result, dict) or not result.keys() >= {"metric", "value", "metrics"}:
        raise UserError(f"{path} is damaged: delete it, and the cell runs again")
    return result


def _train(cell: Cell, workdir: Path, data_dir: str | None, log: Path) -> int:
    """Trains a cell; returns the peak memory in bytes."""
    arguments = ",".join(f"{name}={value}" for name, value in dataclasses.asdict(cell).items())
    flags = [f"--config=compare:{arguments}", f"--workdir={workdir}"]
    if data_dir is not None:
        flags.append(f"--config.data.data_dir={data_dir}")
    _, memory = _call("jaxtag.train", flags, log)
    return memory


def _result(cell: Cell, workdir: Path, metrics: dict[str, float]) -> dict[str, Any]:
    column, config = DATASETS[cell.dataset], serialization.load(workdir)
    source = prepared.open_split(cell.dataset, "train", config.data.data_dir)
    num_classes = len(source.class_names(task_class(config).label_field(config)))
    fields = dict(config.model.kwargs)
    if "image_size" in models.field_names(config.model.backbone):
        fields["image_size"] = config.data.image_size
    model = models.create_model(config.model.backbone, num_classes=num_classes, **fields)
    return {
        "architecture": cell.architecture,
        "dataset": cell.dataset,
        "pictures": cell.num_images,
        "seed": cell.seed,
        "metric": column.metric,
        "value": metrics[column.metric],
        "metrics": metrics,
        "split": column.split,
        "image_size": config.data.image_size,
        "pretraining": config.model.pretrained or "none",
        "parameters": flops.param_count(model, config.data.image_size),
        "multiply_adds": flops.macs(model, config.data.image_size),
    }


def _call(module: str, arguments: list[str], log: Path) -> tuple[str, int]:
    """Runs a command, with its stderr in `log`; returns (its stdout, its peak memory in bytes).

    The system counts the memory that this process has when it starts the command as the command's.
    """
    command, peak = [sys.executable, "-m", module, *arguments], 0
    while True:
        with log.open("ab") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
            assert process.stdout is not None
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
        if process.returncode != RESTART_STATUS:
            raise UserError(f"{module} failed with status {process.returncode}: see {log}")


def _last_evaluation(workdir: Path) -> dict[str, float]:
    return read_metrics(workdir, "evaluation")[-1]


def _training_seconds(workdir: Path) -> float:
    """Time of all steps with their compilation, without evaluation, over all parts of a run."""
    seconds, previous_step = 0.0, 0.0
    for line in read_metrics(workdir, "train"):
        seconds += line["seconds_per_step"] * (line["step"] - previous_step)
        previous_step = line["step"]
    return seconds
