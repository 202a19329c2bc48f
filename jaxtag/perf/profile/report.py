"""The profile of a training step, as JSON and as one HTML page.

Times are seconds per step, sizes bytes, both of one device unless stated otherwise; where this
process has several devices, kernels are those of the mean device.
"""

import dataclasses
import datetime
import json
import statistics
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxtag import __version__
from jaxtag.config import serialization
from jaxtag.errors import UserError
from jaxtag.perf import compiled, hlo, page, step_inputs
from jaxtag.perf.hardware import Peak, device_peak
from jaxtag.perf.profile import costs, memory, trace
from jaxtag.perf.profile.attribution import ModuleTree, Origins
from jaxtag.perf.profile.measure import Job, Measurement, Step
from jaxtag.storage import json_files
from jaxtag.storage.paths import make_path
from jaxtag.tasks import common

Profile = dict[str, Any]
_ROOF = 0.95  # share of a kernel's least time, below which it is above the roof
_ABOVE_ROOF = {
    "memory": "above the roof: its operands were still in a cache, as the kernel before left them",
    "arithmetic": "above the roof: it skips FLOPs that are counted (of padding, say), or the peak "
    "was measured while the device ran slower",
}
JSON_FILE, HTML_FILE = "profile.json", "profile.html"


def make_profile(title: str, job: Job, measurement: Measurement, folder: Path) -> Profile:
    """Puts together what was measured of a step and what its program tells.

    Args:
        title: Names the configuration.
        job: What was run.
        measurement: Of the job.
        folder: Holds the trace.
    """
    config = job.setup.config
    text = compiled.text(measurement.compiled)
    program = hlo.parse(text)
    origins = Origins(program, ModuleTree(job.setup, job.shapes))
    dtype = common.compute_dtype(config.model.dtype)
    peak = device_peak(jax.local_devices()[0], dtype)
    devices = trace.read(folder / "trace", text.split(None, 2)[1].rstrip(","))
    kernels = _kernels(devices, len(measurement.traced_steps), program, origins, peak)
    step = _step(measurement, config.batch_size)
    return {
        "title": title,
        "config": serialization.to_dict(config),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": _device(job),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")}
        | {"jaxtag": __version__},
        "dtype": dtype.name,
        "compilation": {
            "trace_seconds": measurement.lower_seconds,
            "compile_seconds": measurement.compile_seconds,
            "recompilations": measurement.recompilations,
        },
        "step": step,
        "costs": _costs(job, measurement, peak, step),
        "kernels": kernels,
        "parts": _parts(kernels),
        "memory": {
            "planned": memory.by_kind(job, measurement.compiled),
            "in_use": memory.in_use(),
            "largest": memory.largest(program, origins),
        },
    }


def write(job: Job, measurement: Measurement, folder: Path) -> Profile:
    """Writes profile.json, profile.html and the program's text before and after optimization."""
    (folder / "step.before.hlo.txt").write_text(measurement.unoptimized, encoding="utf-8")
    text = compiled.text(measurement.compiled)
    (folder / "step.after.hlo.txt").write_text(text, encoding="utf-8")
    profile = make_profile(step_inputs.title(job.setup.config), job, measurement, folder)
    write_json(profile, folder)
    write_html(profile, folder)
    return profile


def write_json(profile: Profile, folder: Path) -> None:
    """Writes FOLDER/profile.json."""
    (folder / JSON_FILE).write_text(json.dumps(profile, indent=1) + "\n", encoding="utf-8")


def write_html(profile: Profile, folder: Path) -> None:
    """Writes FOLDER/profile.html, one page that needs no server and no network."""
    (folder / HTML_FILE).write_text(page.render("profile", profile), encoding="utf-8")


def load(location: str) -> Profile:
    """Reads a profile, given its file, its folder or its work directory.

    Raises:
        UserError: There is none, or the file is not a profile.
    """
    path = make_path(location)
    candidates = (path, path / JSON_FILE, path / "profile" / JSON_FILE)
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise UserError(
            f"{location}: no {JSON_FILE} is there (jaxtag.profile writes DIR/profile/{JSON_FILE})"
        )
    profile = json_files.read(file)
    if not isinstance(profile, dict) or "kernels" not in profile:
        raise UserError(f"{file} is no profile of jaxtag.profile")
    return profile


def _device(job: Job) -> dict[str, Any]:
    first = jax.devices()[0]
    return {
        "kind": first.device_kind,
        "platform": first.platform,
        "count": job.setup.mesh.size,
        "processes": jax.process_count(),
    }


def _step(measurement: Measurement, batch_size: int) -> dict[str, Any]:
    save = measurement.checkpoint
    mean = {part: _mean(measurement.steps, part) for part in ("data", "host", "device")}
    checkpoint = save.blocked / save.every
    seconds = sum(mean.values()) + checkpoint
    return {
        "seconds": seconds,
        **mean,
        "checkpoint": checkpoint,
        "images_per_second": batch_size / seconds,
        "batch_size": batch_size,
        "each": [step.total for step in measurement.steps],
        "median": statistics.median(step.total for step in measurement.steps),
        "traced": statistics.fmean(step.total for step in measurement.traced_steps),
        "traced_device": _mean(measurement.traced_steps, "device"),
        "save": dataclasses.asdict(save),
    }


def _costs(job: Job, measurement: Measurement, peak: Peak, step: dict[str, Any]) -> dict[str, Any]:
    xla = compiled.cost_analysis(measurement.compiled)
    required = costs.analytic_flops(job.setup, job.num_examples, job.shapes)
    analytic = required / job.setup.mesh.size
    return {
        "flops": {"xla": xla["flops"], "analytic": analytic},
        "bytes": xla["bytes accessed"],
        "peak": dataclasses.asdict(peak),
        "mfu": analytic / step["seconds"] / peak.flops,
        "hardware_utilisation": xla["flops"] / step["seconds"] / peak.flops,
        "bandwidth": xla["bytes accessed"] / step["device"],
        "bandwidth_share": xla["bytes accessed"] / step["device"] / peak.bandwidth,
    }


def _kernels(
    devices: list[trace.DeviceTime],
    steps: int,
    program: hlo.Program,
    origins: Origins,
    peak: Peak,
) -> list[dict[str, Any]]:
    """A row for each kernel, the one that takes longest first."""
    seconds: dict[str, float] = {}
    counts: Counter[str] = Counter()
    for device in devices:
        counts.update(device.counts)
        for name, value in device.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    runs = steps * len(devices)
    rows = [
        _kernel(name, value / runs, counts[name] / runs, program, origins, peak)
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return [row for row in rows if row["opcode"] not in hlo.CONTROL - {"call"}]


def _kernel(
    name: str, seconds: float, runs: float, program: hlo.Program, origins: Origins, peak: Peak
) -> dict[str, Any]:
    row: dict[str, Any]
    row = {"name": name, "seconds": seconds, "runs": runs, "opcode": "", "shape": ""}
    row |= {"module": None, "part": None, "phase": "", "line": "", "flops": 0, "bytes": 0}
    if (instruction := program.instructions.get(name)) is not None:
        row |= dataclasses.asdict(origins.of(name))
        row["opcode"], row["shape"] = instruction.opcode, instruction.shape
        row["flops"] = runs * costs.flops(program, instruction)
        row["bytes"] = runs * costs.bytes_accessed(program, instruction)
    arithmetic, traffic = row["flops"] / peak.flops, row["bytes"] / peak.bandwidth
    row["bound"] = "arithmetic" if arithmetic > traffic else "memory"
    row["least"] = max(arithmetic, traffic)  # seconds on the roofline
    row["note"] = _ABOVE_ROOF[row["bound"]] if row["seconds"] < _ROOF * row["least"] else ""
    return row


def _parts(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each module or other part of the step: seconds by phase, FLOPs, bytes."""
    rows: dict[str | None, dict[str, Any]] = {}
    for kernel in kernels:
        empty = {"part": kernel["part"], "seconds": 0.0, "least": 0.0, "flops": 0, "bytes": 0}
        row = rows.setdefault(kernel["part"], empty)
        phase = kernel["phase"] or "other"
        row[phase] = row.get(phase, 0.0) + kernel["seconds"]
        for name in ("seconds", "least", "flops", "bytes"):
            row[name] += kernel[name]
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def _mean(steps: list[Step], part: str) -> float:
    return statistics.fmean(getattr(step, part) for step in steps)
