"""What `jaxtag.compile` found, for people."""

from typing import Any

from jaxtag.perf.aot.topologies import Topology

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def table(found: dict[str, Any], topology: Topology) -> str:
    """Lines of a name and what is known of it."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items())
    rows = [
        ("devices", f"{found['devices']} x {topology.chip.title} ({topology.name}), {mesh}"),
        ("batch", f"{found['batch_size']:,}, {found['batch_size'] // found['devices']} a device"),
        ("arithmetic", f"{_short(found['flops_per_example'])}FLOP an image"),
        *_memory(found),
    ]
    if found["bound"] is not None:
        rows += _program(found, topology)
    for path in found["replicated"]:
        rows.append(("whole on every device", path))
    rows.append(("time", _seconds(found)))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in rows)


def _memory(found: dict[str, Any]) -> list[tuple[str, str]]:
    held = found["memory_bytes_per_device"]
    kinds = ", ".join(
        f"{name} {_short(held[name])}B"
        for name in ("arguments", "temporaries", "outputs", "code")
        if held[name]
    )
    peak = f"{_short(held['peak'])}B" if held["peak"] else "more"
    verdict = "fits" if found["fits"] else "does not fit: " + _advice(found)
    total = f"{peak} of {_short(held['capacity'])}B a device: {verdict}"
    return [("memory", total), *([("", kinds)] if kinds else [])]


def _advice(found: dict[str, Any]) -> str:
    ways = ["take a smaller config.batch_size", "config.optimizer.grad_accum_steps=2"]
    ways.append("config.model.remat=full")
    if found["mesh"]["fsdp"] == 1 and found["devices"] > 1:
        ways.append("config.mesh.data=1 with config.mesh.fsdp=-1")
    return ", ".join(ways[:-1]) + f" or {ways[-1]} (--search tries them)"


def _program(found: dict[str, Any], topology: Topology) -> list[tuple[str, str]]:
    bound, chip = found["bound"], topology.chip
    parts = ", ".join(
        f"{name} {'unknown' if s is None else f'{1e3 * s:.2f}'}"
        for name, s in bound["seconds_by_resource"].items()
    )
    rows = [
        ("memory traffic", f"{_short(found['hbm_bytes_per_example'])}B an image"),
        (
            "bound",
            f"{bound['by']}: {1e3 * bound['seconds']:.2f} ms a step at least, "
            f"{bound['examples_per_second']:,.0f} images/s at most",
        ),
        ("", f"ms a step: {parts} (peaks: {chip.source})"),
    ]
    for kind, item in found["collectives"].items():
        rows.append(
            (
                kind,
                f"{item['count']} ({item['runs']} runs), {_short(item['bytes'])}B a device, "
                f"{item['overlapped']} beside other work",
            )
        )
    if topology.islands > 1:
        sent = f"{_short(found['network_bytes_per_device'])}B a device to other"
        rows.append(("network", f"{sent} {'slices' if chip.platform == 'tpu' else 'hosts'}"))
    if not found["collectives"]:
        rows.append(("collectives", "none"))
    rows.append(("gradients", f"{_short(found['gradient_bytes'])}B"))
    return rows


def _seconds(found: dict[str, Any]) -> str:
    spent = f"tracing and lowering {found['lower_seconds']:.1f} s"
    if found["compile_seconds"] is not None:
        spent += f", compiling {found['compile_seconds']:.1f} s"
    return spent


def _short(number: float) -> str:
    """`1234567` → `1.23 M`."""
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "
