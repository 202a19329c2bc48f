"""Reads a profiler's trace (xplane): how long each kernel of a compiled program ran.

Planes and lines are as the profiler of each platform names them (tsl/profiler/utils/
xplane_schema.cc of openxla/xla):

- TPU: planes `/device:TPU:N`, line `XLA Ops`, an event per instruction, named by it;
- GPU: planes `/device:GPU:N`, a line per stream, an event per kernel, whose stat `hlo_op` names the
  instruction;
- CPU: plane `/host:CPU`, a line per thread, an event per instruction (stat `hlo_op`), which only
  starts it where it runs in parallel. The work items that it hands to other threads are identified
  by the numbers of `ThreadpoolListener` events.
"""

import bisect
import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jax.profiler import ProfileData, ProfileEvent, ProfilePlane

from jaxtag.errors import UserError

_Owner = TypeVar("_Owner")
# (start, end, instruction) in ns: a device, one of its threads or streams, works on it.
Interval = tuple[float, float, str]
Line = tuple[list[Interval], Counter[str]]  # of a thread or stream; how often each ran
Seconds = dict[str, float]

_RECORD, _START, _STOP = (
    f"ThreadpoolListener::{event}" for event in ("Record", "StartRegion", "StopRegion")
)
_TRANSFERS = ("Memcpy", "Memset")  # of CUDA
_SCHEDULER = "ThunkExecutor::"  # of XLA on CPU: its own work belongs to no kernel


@dataclasses.dataclass(frozen=True)
class DeviceTime:
    """What one device did in the traced window.

    Attributes:
        seconds: By instruction. A moment in which several run is divided by the number of threads
            (streams) that work on each, so that the sum is the time in which any ran.
        counts: How often each instruction ran.
    """

    seconds: Seconds
    counts: Counter[str]

    @property
    def total(self) -> float:
        """Seconds in which any kernel ran."""
        return sum(self.seconds.values())


def read(folder: Path, module: str) -> list[DeviceTime]:
    """What each device of this process did, by the newest trace in `folder`.

    Args:
        folder: Where `jax.profiler.trace` wrote.
        module: Name of the HLO module; kernels of other programs do not count.

    Raises:
        UserError: There is no trace, or no kernel of the module in it.
    """
    files = sorted(folder.glob("plugins/profile/*/*.xplane.pb"))
    if not files:
        raise UserError(f"{folder} holds no trace: the profiler wrote none")
    planes = list(ProfileData.from_file(str(files[-1])).planes)
    devices = [plane for plane in planes if plane.name.startswith(("/device:TPU", "/device:GPU"))]
    if devices:
        times = [_device_time(_accelerator_lines(plane, module)) for plane in devices]
    else:
        host = next(plane for plane in planes if plane.name == "/host:CPU")
        times = [_device_time(lines) for lines in _cpu_lines(host, module).values()]
    times = [device for device in times if device.seconds]
    if not times:
        raise UserError(f"{files[-1]} holds no kernel of {module}: the profiler saw none")
    return times


def _device_time(lines: list[Line]) -> DeviceTime:
    counts: Counter[str] = Counter()
    for _, line_counts in lines:
        counts += line_counts
    return DeviceTime(shared_seconds([intervals for intervals, _ in lines]), counts)


def shared_seconds(lines: Iterable[list[Interval]]) -> Seconds:
    """Seconds by instruction, as in `DeviceTime`, from what each thread or stream did."""
    edges = heapq.merge(*(sorted(_edges(line), key=lambda edge: edge[:2]) for line in lines))
    active: Counter[str] = Counter()
    seconds: Seconds = {}
    last = 0.0
    for now, change, name in edges:
        if active and now > last:
            share = (now - last) / 1e9 / active.total()
            for running, threads in active.items():
                seconds[running] = seconds.get(running, 0.0) + threads * share
        last = now
        active[name] += change
        if not active[name]:
            del active[name]
    return seconds


def _edges(line: list[Interval]) -> Iterator[tuple[float, int, str]]:
    for start, end, name in line:
        if end > start:
            yield start, 1, name
            yield end, -1, name


def innermost(nested: list[tuple[float, float, _Owner]]) -> list[tuple[float, float, _Owner]]:
    """Divides intervals that nest, as calls do, into parts in which each is the innermost."""
    parts: list[tuple[float, float, _Owner]] = []
    stack: list[tuple[float, _Owner]] = []  # (end, owner)
    since = 0.0

    def advance(moment: float) -> None:
        nonlocal since
        while stack and stack[-1][0] <= moment:
            end, owner = stack.pop()
            parts.append((since, end, owner))
            since = max(since, end)
        if stack:
            parts.append((since, moment, stack[-1][1]))
        since = moment

    for start, end, owner in sorted(nested, key=lambda interval: (interval[0], -interval[1])):
        advance(start)
        if stack:
            end = min(end, stack[-1][0])
        stack.append((end, owner))
    advance(float("inf"))
    return parts


def _accelerator_lines(plane: ProfilePlane, module: str) -> list[Line]:
    is_tpu = plane.name.startswith("/device:TPU")
    lines: list[Line] = []
    for line in plane.lines:
        if is_tpu and line.name != "XLA Ops":
            continue
        intervals: list[Interval] = []
        for event in line.events:
            stats = dict(event.stats)
            if stats.get("hlo_module", module) != module:
                continue
            if "hlo_op" not in stats and event.name.startswith(_TRANSFERS):
                continue
            # A TPU's event has the whole instruction as its name; a GPU's kernel that a CUDA graph
            # started names no instruction, and stays under its own name.
            name = event.name.partition(" = ")[0].lstrip("%") if is_tpu else event.name
            intervals.append((event.start_ns, event.end_ns, str(stats.get("hlo_op") or name)))
        lines.append((innermost(intervals), Counter(name for *_, name in intervals)))
    return lines


def _cpu_lines(plane: ProfilePlane, module: str) -> dict[int, list[Line]]:
    """By device: what each thread did for it."""
    threads = [_thread(line.events, module) for line in plane.lines]
    handed_over = {item: owner for thread in threads for item, owner in thread.handed_over.items()}

    def kernel_of(owner: _Work) -> _Kernel | None:
        while isinstance(owner, int):
            owner = handed_over.get(owner)
        return owner

    lines: dict[int, list[Line]] = {}
    for thread in threads:
        parts = [(start, end, kernel_of(owner)) for start, end, owner in thread.parts]
        for device in {kernel.device for *_, kernel in parts if kernel}:
            intervals = [
                (start, end, kernel.name)
                for start, end, kernel in parts
                if kernel and kernel.device == device
            ]
            counts = Counter(kernel.name for kernel in thread.started if kernel.device == device)
            lines.setdefault(device, []).append((intervals, counts))
    return lines


class _Kernel(NamedTuple):
    """An instruction on a device."""

    name: str
    device: int


# What a thread works for: a kernel, a work item by its number, or (None) the scheduler.
_Work = _Kernel | int | None


class _Thread(NamedTuple):
    """What a thread of a CPU did.

    Attributes:
        parts: (start, end, owner) without overlap.
        handed_over: Number of a work item that it handed to other threads -> its owner.
        started: The kernels that it started.
    """

    parts: list[tuple[float, float, _Work]]
    handed_over: dict[int, _Work]
    started: list[_Kernel]


def _thread(events: Iterable[ProfileEvent], module: str) -> _Thread:
    nested: list[tuple[float, float, _Work]] = []
    records: list[tuple[float, int]] = []
    started: list[_Kernel] = []
    open_items: list[tuple[float, int]] = []
    for event in sorted(events, key=lambda event: event.start_ns):
        name, start = event.name, event.start_ns
        if name.startswith(_SCHEDULER):
            nested.append((start, event.end_ns, None))
        elif name == _START:
            open_items.append((start, _stats(event)["_c"]))
        elif name == _STOP and open_items:
            began, number = open_items.pop()
            nested.append((began, start, number))
        elif name == _RECORD:
            records.append((start, _stats(event)["_p"]))
        elif not name.startswith("end: "):
            stats = _stats(event)
            if stats.get("hlo_module") == module and "hlo_op" in stats:
                started.append(_Kernel(stats["hlo_op"], stats.get("device_ordinal", 0)))
                nested.append((start, event.end_ns, started[-1]))
    parts = innermost(nested)
    starts = [start for start, *_ in parts]
    handed_over: dict[int, _Work] = {}
    for moment, number in records:
        index = bisect.bisect_right(starts, moment) - 1
        is_inside = index >= 0 and moment <= parts[index][1]
        handed_over[number] = parts[index][2] if is_inside else None
    return _Thread(parts, handed_over, started)


def _stats(event: ProfileEvent) -> dict[str, Any]:
    return dict(event.stats)
