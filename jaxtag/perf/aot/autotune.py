"""Searches the batch size, remat policy and mesh with which a step is fastest."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jaxtag import models
from jaxtag.config.schema import Config

_REMAT_POLICIES = ("none", "dots", "full")  # by increasing recomputation
_MAX_BATCH = 1024  # images per device


@dataclasses.dataclass(frozen=True)
class Trial:
    """One compilation.

    Attributes:
        batch: Images per device and step.
        remat: The policy.
        mesh: The axis that all devices are on: "data" replicates parameters, "fsdp" splits them.
        fits: Whether the step fits a device's memory.
        peak: Bytes of a device's memory; None where unknown.
        examples_per_second: On all devices, by the bound of the slowest resource; 0 where the step
            does not fit.
        binding: That resource.
    """

    batch: int
    remat: str
    mesh: str
    fits: bool
    peak: int | None
    examples_per_second: float
    binding: str


def search(
    config: Config,
    devices: int,
    analyze: Callable[[Config], dict[str, Any]],
    report: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
    """Tries batch sizes for each remat policy and mesh; returns all trials, the fastest first.

    Batch sizes are powers of two times the batch per device of `config`: up to the largest that
    fits, then down while a step gets faster, since what a chip keeps in its fast memory may make a
    smaller batch faster.

    Args:
        config: To vary.
        devices: Their number.
        analyze: Compiles a configuration and returns what `analyze.analyze` does.
        report: Called with a line for each trial.
    """
    trials: list[Trial] = []

    def run_trial(batch: int, remat: str, mesh: str) -> Trial:
        variant = _variant(config, batch * devices, remat, mesh)
        trial = _trial(batch, remat, mesh, analyze(variant))
        trials.append(trial)
        report(_line(trial))
        return trial

    start = max(1, config.batch_size // (devices * config.optimizer.grad_accum_steps))
    for remat, mesh in _variants(config, devices):
        fastest = last = run_trial(start, remat, mesh)
        batch = 2 * start
        while last.fits and batch <= _MAX_BATCH:
            last = run_trial(batch, remat, mesh)
            batch *= 2
        batch = start // 2
        while batch >= 1:
            last = run_trial(batch, remat, mesh)
            if fastest.fits and last.examples_per_second <= fastest.examples_per_second:
                break
            fastest = last
            batch //= 2
    return sorted(trials, key=lambda trial: -trial.examples_per_second)


def table(trials: list[Trial]) -> str:
    """One line for each trial."""
    return "\n".join(_line(trial) for trial in trials)


def _variants(config: Config, devices: int) -> Iterator[tuple[str, str]]:
    """(remat policy, mesh) to try: policies that the model has, on each mesh."""
    has_remat = "remat" in models.field_names(config.model.backbone)
    policies = _REMAT_POLICIES if has_remat else ("none",)
    for mesh in ("data", "fsdp") if devices > 1 else ("data",):
        for remat in policies:
            yield remat, mesh


def _variant(config: Config, batch_size: int, remat: str, mesh: str) -> Config:
    replace = dataclasses.replace
    axes = {"data": -1, "fsdp": 1} if mesh == "data" else {"data": 1, "fsdp": -1}
    return replace(
        config,
        batch_size=batch_size * config.optimizer.grad_accum_steps,
        model=replace(config.model, remat=remat),
        mesh=replace(config.mesh, **axes, tensor=1),
    )


def _trial(batch: int, remat: str, mesh: str, analysis: dict[str, Any]) -> Trial:
    bound = analysis["bound"] if analysis["fits"] else None
    return Trial(
        batch=batch,
        remat=remat,
        mesh=mesh,
        fits=analysis["fits"],
        peak=analysis["memory_bytes_per_device"]["peak"],
        examples_per_second=bound["examples_per_second"] if bound else 0.0,
        binding=bound["by"] if bound else "memory size",
    )


def _line(trial: Trial) -> str:
    peak = f"{trial.peak / 1e9:.2f} GB" if trial.peak else "unknown"
    speed = f"{trial.examples_per_second:,.0f} images/s at most" if trial.fits else "does not fit"
    return (
        f"batch {trial.batch:4d} a device, remat {trial.remat:4s}, parameters "
        f"{'whole' if trial.mesh == 'data' else 'split'}: {peak}, {speed} ({trial.binding})"
    )
