"""Formats a profile for a terminal."""

from collections.abc import Sequence

from jaxtag.perf.profile.report import Profile

_KERNELS, _PARTS, _BUFFERS = 12, 15, 5  # rows


def as_text(profile: Profile) -> str:
    """The whole profile, in some fifty lines."""
    sections = (_head, _step, _costs, _parts, _kernels, _memory, _recompilations)
    return "\n\n".join(section(profile) for section in sections)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns: the first and last to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 0 < index < len(row) - 1 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def milliseconds(seconds: float) -> str:
    """Seconds as `1,234.56 ms`."""
    return f"{1e3 * seconds:,.2f} ms"


def size(count: float) -> str:
    """A number of bytes in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:,.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:,.2f} GiB"


def attributed_share(profile: Profile) -> float:
    """Share of the kernels' time that belongs to a module or a named part of the step."""
    total = sum(row["seconds"] for row in profile["parts"])
    return sum(row["seconds"] for row in profile["parts"] if row["part"]) / total


def _head(profile: Profile) -> str:
    device, versions = profile["device"], profile["versions"]
    return (
        f"{profile['title']}: {device['count']} x {device['kind']}, {profile['dtype']}, "
        f"JAX {versions['jax']}"
    )


def _step(profile: Profile) -> str:
    step = profile["step"]
    busy = _share(_kernel_seconds(profile), step["traced_device"])
    rows = [("a step", "", "", f"{step['images_per_second']:,.1f} images/s")]
    notes = {
        "data": "waiting for the batch",
        "host": "placing the batch, starting the step",
        "device": f"kernels ran {busy} of it (traced)",
        "checkpoint": f"a save blocks {milliseconds(step['save']['blocked'])}, every "
        f"{step['save']['every']:,} steps",
    }
    for part, note in notes.items():
        seconds = step[part]
        rows.append((f"  {part}", milliseconds(seconds), _share(seconds, step["seconds"]), note))
    rows.append(("  together", milliseconds(step["seconds"]), "", _spread(step["each"])))
    return aligned(rows)


def _costs(profile: Profile) -> str:
    costs = profile["costs"]
    flops, peak = costs["flops"], costs["peak"]
    return "\n".join(
        (
            f"arithmetic  {flops['analytic'] / 1e9:,.2f} GFLOP analytic, "
            f"{flops['xla'] / 1e9:,.2f} by XLA, a device and step",
            f"            MFU {costs['mfu']:.1%} of {peak['flops'] / 1e12:,.3f} TFLOP/s",
            f"memory      {costs['bytes'] / 1e9:,.3f} GB by XLA: {costs['bandwidth'] / 1e9:,.1f} "
            f"GB/s, {costs['bandwidth_share']:.1%} of {peak['bandwidth'] / 1e9:,.1f}",
            f"peaks       {peak['source']}",
        )
    )


def _parts(profile: Profile) -> str:
    total = _kernel_seconds(profile)
    rows = [("part of the step", "time", "share", "forward", "backward", "GFLOP", "")]
    for row in profile["parts"][:_PARTS]:
        rows.append(
            (
                row["part"] or "(unknown)",
                milliseconds(row["seconds"]),
                _share(row["seconds"], total),
                milliseconds(row.get("forward", 0.0)),
                milliseconds(row.get("backward", 0.0) + row.get("again", 0.0)),
                f"{row['flops'] / 1e9:,.2f}",
                "",
            )
        )
    left = len(profile["parts"]) - _PARTS
    more = f"\n… and {left} more; " if left > 0 else "\n"
    return f"{aligned(rows)}{more}{attributed_share(profile):.1%} of the kernels' time has a part"


def _kernels(profile: Profile) -> str:
    total = _kernel_seconds(profile)
    rows = [("kernel", "time", "share", "at the peak", "bound", "part", "line")]
    for row in profile["kernels"][:_KERNELS]:
        rows.append(
            (
                row["name"],
                milliseconds(row["seconds"]),
                _share(row["seconds"], total),
                milliseconds(row["least"]),
                row["bound"],
                " ".join(filter(None, (row["part"] or "(unknown)", row["phase"]))),
                row["line"],
            )
        )
    left = len(profile["kernels"]) - _KERNELS
    return aligned(rows) + (f"\n… and {left} more" if left > 0 else "")


def _memory(profile: Profile) -> str:
    memory = profile["memory"]
    rows = [("memory of a device", "", "")]
    rows += [(f"  {name}", size(count), "") for name, count in memory["planned"].items()]
    rows += [(f"  in use: {name}", size(count), "") for name, count in memory["in_use"].items()]
    rows += [
        (f"  {row['name']}", size(row["bytes"]), f"{row['part'] or ''}  {row['line']}")
        for row in memory["largest"][:_BUFFERS]
    ]
    return aligned(rows)


def _recompilations(profile: Profile) -> str:
    compilation = profile["compilation"]
    lines = [
        f"traced in {compilation['trace_seconds']:.1f} s, compiled in "
        f"{compilation['compile_seconds']:.1f} s (less where the program was in the cache)"
    ]
    for again in compilation["recompilations"]:
        lines.append(f"compiled again in call {again['call']} ({again['seconds']:.1f} s), since")
        lines += [f"  {change}" for change in again["changes"][:10]]
    if not compilation["recompilations"]:
        lines.append("no recompilations")
    return "\n".join(lines)


def _kernel_seconds(profile: Profile) -> float:
    """Seconds per step in which a kernel ran."""
    return sum(row["seconds"] for row in profile["kernels"])


def _share(part: float, whole: float) -> str:
    return f"{part / max(whole, 1e-12):.1%}"


def _spread(seconds: list[float]) -> str:
    return (
        f"{len(seconds)} steps of {milliseconds(min(seconds))} to {milliseconds(max(seconds))} "
        "and the checkpoint's share"
    )
