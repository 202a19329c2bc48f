"""Searches the batch size, remat policy, mesh and XLA options with which a step is fastest."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jaxtag import models
from jaxtag.config.schema import Config
from jaxtag.training import xla_options

_REMAT_POLICIES = ("none", "dots", "full")  # by increasing recomputation
_MAX_BATCH = 1024  # images per device
_TENSOR_SIZES = (2, 4)  # of the axis `tensor`


@dataclasses.dataclass(frozen=True)
class Trial:
    """One compilation.

    Attributes:
        batch: Images per device and step.
        remat: The policy.
        mesh: The axis that all devices are on but for `tensor`: "data" replicates parameters,
            "fsdp" splits them.
        tensor: Size of the mesh's axis `tensor`.
        xla_options: Sets of `training.xla_options`.
        fits: Whether the step fits a device's memory.
        peak: Bytes of a device's memory; None where unknown.
        examples_per_second: On all devices, by the bound of the slowest resource; 0 where the step
            does not fit.
        binding: That resource.
    """

    batch: int
    remat: str
    mesh: str
    tensor: int
    xla_options: tuple[str, ...]
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
    smaller batch faster. From the fastest of these on, sizes of `tensor` and sets of XLA options
    are tried, one after the other, and what is faster stays.

    Args:
        config: To vary.
        devices: Their number.
        analyze: Compiles a configuration and returns what `analyze.analyze` does.
        report: Called with a line for each trial.
    """
    trials: list[Trial] = []

    def run_trial(
        batch: int, remat: str, mesh: str, tensor: int = 1, options: tuple[str, ...] = ()
    ) -> Trial:
        variant = _variant(config, batch * devices, remat, mesh, tensor, options)
        trial = _trial(batch, remat, mesh, tensor, options, analyze(variant))
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
    best = max(trials, key=lambda trial: trial.examples_per_second)
    for tensor in _tensor_sizes(config, devices) if best.fits else ():
        last = run_trial(best.batch, best.remat, best.mesh, tensor)
        best = max(best, last, key=lambda trial: trial.examples_per_second)
    for name in xla_options.SETS if best.fits else ():
        options = (*best.xla_options, name)
        last = run_trial(best.batch, best.remat, best.mesh, best.tensor, options)
        best = max(best, last, key=lambda trial: trial.examples_per_second)
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


def _tensor_sizes(config: Config, devices: int) -> list[int]:
    """Sizes of `tensor` that split the devices and the heads of the model's attention."""
    values = models.create_model(config.model.backbone, **config.model.kwargs)
    heads = getattr(values, "heads", 1)
    return [size for size in _TENSOR_SIZES if devices % size == 0 and heads % size == 0]


def _variant(
    config: Config, batch_size: int, remat: str, mesh: str, tensor: int, options: tuple[str, ...]
) -> Config:
    replace = dataclasses.replace
    axes = {"data": -1, "fsdp": 1} if mesh == "data" else {"data": 1, "fsdp": -1}
    return replace(
        config,
        batch_size=batch_size * config.optimizer.grad_accum_steps,
        model=replace(config.model, remat=remat),
        mesh=replace(config.mesh, **axes, tensor=tensor),
        xla_options=(*config.xla_options, *options),
    )


def _trial(
    batch: int,
    remat: str,
    mesh: str,
    tensor: int,
    options: tuple[str, ...],
    analysis: dict[str, Any],
) -> Trial:
    bound = analysis["bound"] if analysis["fits"] else None
    return Trial(
        batch=batch,
        remat=remat,
        mesh=mesh,
        tensor=tensor,
        xla_options=options,
        fits=analysis["fits"],
        peak=analysis["memory_bytes_per_device"]["peak"],
        examples_per_second=bound["examples_per_second"] if bound else 0.0,
        binding=bound["by"] if bound else "memory size",
    )


def _line(trial: Trial) -> str:
    peak = f"{trial.peak / 1e9:.2f} GB" if trial.peak else "unknown"
    speed = f"{trial.examples_per_second:,.0f} images/s at most" if trial.fits else "does not fit"
    extras = [f"tensor {trial.tensor}"] if trial.tensor > 1 else []
    extras += [f"xla_options {'+'.join(trial.xla_options)}"] if trial.xla_options else []
    return (
        f"batch {trial.batch:4d} a device, remat {trial.remat:4s}, parameters "
        f"{', '.join(['whole' if trial.mesh == 'data' else 'split', *extras])}: "
        f"{peak}, {speed} ({trial.binding})"
    )
