"""Formats the analysis of `jaxtag.compile` for a terminal."""

from typing import Any

from jaxtag.perf.aot.topologies import Topology

_BUSY = 0.5  # share of arithmetic in the bound, from which on there is no hint
_ENOUGH_IMAGES = 32  # a device, likewise
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def table(analysis: dict[str, Any], topology: Topology) -> str:
    """One line for each quantity: its name, its value."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in analysis["mesh"].items())
    rows = [
        ("devices", f"{analysis['devices']} x {topology.chip.title} ({topology.name}), {mesh}"),
        (
            "batch",
            f"{analysis['batch_size']:,}, {analysis['batch_size'] // analysis['devices']} a device",
        ),
        ("arithmetic", f"{_short(analysis['flops_per_example'])}FLOP an image"),
        *_memory_rows(analysis),
    ]
    if analysis["bound"] is not None:
        rows += _program_rows(analysis, topology)
    for path in analysis["replicated"]:
        rows.append(("whole on every device", path))
    rows.append(("time", _times(analysis)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def _memory_rows(analysis: dict[str, Any]) -> list[tuple[str, str]]:
    memory = analysis["memory_bytes_per_device"]
    kinds = ", ".join(
        f"{name} {_short(memory[name])}B"
        for name in ("arguments", "temporaries", "outputs", "code")
        if memory[name]
    )
    peak = f"{_short(memory['peak'])}B" if memory["peak"] else "more"
    verdict = "fits" if analysis["fits"] else "does not fit: " + _advice(analysis)
    total = f"{peak} of {_short(memory['capacity'])}B a device: {verdict}"
    return [("memory", total), *([("", kinds)] if kinds else [])]


def _advice(analysis: dict[str, Any]) -> str:
    remedies = ["take a smaller config.batch_size", "config.optimizer.grad_accum_steps=2"]
    remedies.append("config.model.remat=full")
    if analysis["mesh"]["fsdp"] == 1 and analysis["devices"] > 1:
        remedies.append("config.mesh.shard_optimizer_over_data=True")
        remedies.append("config.mesh.data=1 with config.mesh.fsdp=-1")
    return ", ".join(remedies[:-1]) + f" or {remedies[-1]} (--search tries them)"


def _program_rows(analysis: dict[str, Any], topology: Topology) -> list[tuple[str, str]]:
    bound, chip = analysis["bound"], topology.chip
    parts = ", ".join(
        f"{name} {'unknown' if s is None else f'{1e3 * s:.2f}'}"
        for name, s in bound["seconds_by_resource"].items()
    )
    rows = [
        ("memory traffic", f"{_short(analysis['hbm_bytes_per_example'])}B an image"),
        (
            "bound",
            f"{bound['by']}: {1e3 * bound['seconds']:.2f} ms a step at least, "
            f"{bound['examples_per_second']:,.0f} images/s at most",
        ),
        ("", f"ms a step: {parts} (peaks: {chip.source})"),
        (
            "schedule",
            f"{1e3 * analysis['schedule']['seconds']:.2f} ms with kernels one after another, of "
            f"which {1e3 * analysis['schedule']['waited_seconds']:.2f} ms wait for collectives",
        ),
    ]
    if hint := _batch_hint(analysis):
        rows.append(("hint", hint))
    for kind, item in analysis["collectives"].items():
        rows.append(
            (
                kind,
                f"{item['count']} ({item['runs']} runs), {_short(item['bytes'])}B a device, "
                f"{item['overlapped']} beside other work",
            )
        )
    if topology.islands > 1:
        traffic = f"{_short(analysis['network_bytes_per_device'])}B a device to other"
        rows.append(("network", f"{traffic} {'slices' if chip.platform == 'tpu' else 'hosts'}"))
    if not analysis["collectives"]:
        rows.append(("collectives", "none"))
    rows.append(("gradients", f"{_short(analysis['gradient_bytes'])}B"))
    return rows


def _batch_hint(analysis: dict[str, Any]) -> str | None:
    """What to do where a device has too few images to keep its matrix units busy."""
    batch_size, devices = analysis["batch_size"], analysis["devices"]
    bound = analysis["bound"]
    share = bound["seconds_by_resource"]["arithmetic"] / bound["seconds"]
    images = batch_size / devices
    if share >= _BUSY or images >= _ENOUGH_IMAGES:
        return None
    advised = _ENOUGH_IMAGES
    return (
        f"arithmetic is {share:.0%} of the bound with {images:g} images a device: take "
        f"--config.batch_size={advised * devices} ({advised} a device), or fewer devices "
        "(--search finds the fastest batch)"
    )


def _times(analysis: dict[str, Any]) -> str:
    text = f"tracing and lowering {analysis['lower_seconds']:.1f} s"
    if analysis["compile_seconds"] is not None:
        text += f", compiling {analysis['compile_seconds']:.1f} s"
    return text


def _short(number: float) -> str:
    """1234567 as `1.23 M`."""
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "
