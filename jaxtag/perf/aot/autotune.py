"""Finds the largest batch, and the remat policy and mesh with which a step is fastest."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jaxtag import models
from jaxtag.config.schema import Config

_REMAT = ("none", "dots", "full")  # from the one that computes least
_LARGEST = 1024  # pictures a device


@dataclasses.dataclass(frozen=True)
class Trial:
    """One compilation.

    Attributes:
      batch: pictures of each device in a step.
      peak: bytes of a device's memory, None where nobody knows.
      examples_per_second: by the bound of the slowest resource, on all devices; 0 where it does not
        fit.
    """

    batch: int
    remat: str
    mesh: str
    fits: bool
    peak: int | None
    examples_per_second: float
    binding: str


def best(
    config: Config,
    devices: int,
    attempt: Callable[[Config], dict[str, Any]],
    say: Callable[[str], None] = lambda line: None,
) -> list[Trial]:
    """All that was tried, the fastest first.

    For each remat policy and mesh the largest batch that fits is found among powers of two times
    the batch a device of `config`, and below that one whichever is fastest: what a chip keeps in
    its fast memory may make a smaller batch faster.

    Args:
      attempt: compiles a configuration and gives what `reading.read` gives.
      say: is told of each trial.
    """
    trials: list[Trial] = []

    def attempted(batch: int, remat: str, mesh: str) -> Trial:
        changed = _changed(config, batch * devices, remat, mesh)
        trial = _trial(batch, remat, mesh, attempt(changed))
        trials.append(trial)
        say(_line(trial))
        return trial

    start = max(1, config.batch_size // (devices * config.optimizer.grad_accum_steps))
    for way in _ways(config, devices):
        fastest = last = attempted(start, *way)
        batch = 2 * start
        while last.fits and batch <= _LARGEST:
            last = attempted(batch, *way)
            batch *= 2
        batch = start // 2
        while batch >= 1:
            last = attempted(batch, *way)
            if fastest.fits and last.examples_per_second <= fastest.examples_per_second:
                break
            fastest = last
            batch //= 2
    return sorted(trials, key=lambda trial: -trial.examples_per_second)


def table(trials: list[Trial]) -> str:
    """A line for each."""
    return "\n".join(_line(trial) for trial in trials)


def _ways(config: Config, devices: int) -> Iterator[tuple[str, str]]:
    """Remat policies that the model knows, on meshes that split the batch alone or parameters."""
    known = "remat" in models.field_names(config.model.backbone)
    policies = _REMAT if known else ("none",)
    for mesh in ("data", "fsdp") if devices > 1 else ("data",):
        for remat in policies:
            yield remat, mesh


def _changed(config: Config, batch_size: int, remat: str, mesh: str) -> Config:
    replace = dataclasses.replace
    sizes = {"data": -1, "fsdp": 1} if mesh == "data" else {"data": 1, "fsdp": -1}
    return replace(
        config,
        batch_size=batch_size * config.optimizer.grad_accum_steps,
        model=replace(config.model, remat=remat),
        mesh=replace(config.mesh, **sizes, tensor=1),
    )


def _trial(batch: int, remat: str, mesh: str, found: dict[str, Any]) -> Trial:
    bound = found["bound"] if found["fits"] else None
    return Trial(
        batch=batch,
        remat=remat,
        mesh=mesh,
        fits=found["fits"],
        peak=found["memory_bytes_per_device"]["peak"],
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
