"""Puts together what was measured of a step and what its program says: the profile as JSON.

Times are seconds a step, sizes bytes, both of one device unless they say otherwise; where this
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
from jaxtag.errors import UserError
from jaxtag.perf import hlo, peaks
from jaxtag.perf.peaks import Peak
from jaxtag.perf.profile import costs, memory, trace
from jaxtag.perf.profile.attribution import Modules, Origins
from jaxtag.perf.profile.measure import Job, Measured, Step
from jaxtag.tasks import common

Profile = dict[str, Any]
FILE = "profile.json"


def make(title: str, job: Job, measured: Measured, folder: Path) -> Profile:
    """The profile.

    Args:
      title: says which configuration.
      folder: with the trace.
    """
    config = job.experiment.config
    text = measured.compiled.as_text()
    program = hlo.parse(text)
    origins = Origins(program, Modules(job.experiment, job.shapes))
    dtype = common.compute_dtype(config.model.dtype)
    peak = peaks.of(jax.local_devices()[0], dtype)
    busy = trace.read(folder / "trace", text.split(None, 2)[1].rstrip(","))
    kernels = _kernels(busy, len(measured.traced), program, origins, peak)
    step = _step(measured, config.batch_size)
    return {
        "title": title,
        "config": dataclasses.asdict(config),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": _device(job),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "flax")}
        | {"jaxtag": __version__},
        "dtype": dtype.name,
        "compilation": {
            "trace_seconds": measured.lower_seconds,
            "compile_seconds": measured.compile_seconds,
            "recompilations": measured.recompilations,
        },
        "step": step,
        "costs": _costs(job, measured, peak, step),
        "kernels": kernels,
        "parts": _parts(kernels),
        "memory": {
            "planned": memory.by_kind(job, measured.compiled),
            "in_use": memory.in_use(),
            "largest": memory.largest(program, origins),
        },
    }


def write(profile: Profile, folder: Path) -> None:
    """Writes FOLDER/profile.json."""
    (folder / FILE).write_text(json.dumps(profile, indent=1) + "\n", encoding="utf-8")


def load(place: str) -> Profile:
    """A profile by its file, its folder or its work directory.

    Raises:
      UserError: there is none, or the file is not a profile.
    """
    path = Path(place)
    found = [p for p in (path, path / FILE, path / "profile" / FILE) if p.is_file()]
    if not found:
        raise UserError(f"{place}: no {FILE} is there (jaxtag.profile writes DIR/profile/{FILE})")
    try:
        profile = json.loads(found[0].read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{found[0]} is damaged: {error}") from error
    if not isinstance(profile, dict) or "kernels" not in profile:
        raise UserError(f"{found[0]} is no profile of jaxtag.profile")
    return profile


def _device(job: Job) -> dict[str, Any]:
    first = jax.devices()[0]
    return {
        "kind": first.device_kind,
        "platform": first.platform,
        "count": job.experiment.mesh.size,
        "processes": jax.process_count(),
    }


def _step(measured: Measured, batch_size: int) -> dict[str, Any]:
    saved = measured.checkpoint
    mean = {part: _mean(measured.steps, part) for part in ("data", "host", "device")}
    checkpoint = saved.blocked / saved.every
    seconds = sum(mean.values()) + checkpoint
    return {
        "seconds": seconds,
        **mean,
        "checkpoint": checkpoint,
        "images_per_second": batch_size / seconds,
        "batch_size": batch_size,
        "each": [step.total for step in measured.steps],
        "median": statistics.median(step.total for step in measured.steps),
        "traced": statistics.fmean(step.total for step in measured.traced),
        "traced_device": _mean(measured.traced, "device"),
        "save": dataclasses.asdict(saved),
    }


def _costs(job: Job, measured: Measured, peak: Peak, step: dict[str, Any]) -> dict[str, Any]:
    found = measured.compiled.cost_analysis()
    analytic = costs.analytic_flops(job.experiment, job.words, job.examples, job.shapes)
    analytic /= job.experiment.mesh.size
    return {
        "flops": {"xla": found["flops"], "analytic": analytic},
        "bytes": found["bytes accessed"],
        "peak": dataclasses.asdict(peak),
        "mfu": analytic / step["seconds"] / peak.flops,
        "hardware_utilisation": found["flops"] / step["seconds"] / peak.flops,
        "bandwidth": found["bytes accessed"] / step["device"],
        "bandwidth_share": found["bytes accessed"] / step["device"] / peak.bandwidth,
    }


def _kernels(
    busy: list[trace.Busy], steps: int, program: hlo.Program, origins: Origins, peak: Peak
) -> list[dict[str, Any]]:
    """A row a kernel, the one that takes longest first."""
    seconds, counts = Counter(), Counter()
    for device in busy:
        seconds.update(device.seconds)
        counts.update(device.counts)
    runs = steps * len(busy)
    rows = [
        _kernel(name, taken / runs, counts[name] / runs, program, origins, peak)
        for name, taken in seconds.most_common()
    ]
    return [row for row in rows if row["opcode"] not in hlo.CONTROL - {"call"}]


def _kernel(
    name: str, seconds: float, runs: float, program: hlo.Program, origins: Origins, peak: Peak
) -> dict[str, Any]:
    row = {"name": name, "seconds": seconds, "runs": runs, "opcode": "", "shape": ""}
    row |= {"module": None, "part": None, "phase": "", "line": "", "flops": 0, "bytes": 0}
    if (instruction := program.instructions.get(name)) is not None:
        origin = origins.of(name)
        row |= dataclasses.asdict(origin)
        row["opcode"], row["shape"] = instruction.opcode, instruction.shape
        row["flops"] = runs * costs.flops(program, instruction)
        row["bytes"] = runs * costs.bytes_accessed(program, instruction)
    arithmetic, traffic = row["flops"] / peak.flops, row["bytes"] / peak.bandwidth
    row["bound"] = "arithmetic" if arithmetic > traffic else "memory"
    row["least"] = max(arithmetic, traffic)  # seconds at the peak: the roofline
    return row


def _parts(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a module or other part of the step: seconds by phase, FLOPs, bytes."""
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
