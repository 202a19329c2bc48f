"""Reads a profiler's trace (xplane): how long each kernel of a compiled program ran.

Planes and lines are as the profiler of each platform names them (tsl/profiler/utils/
xplane_schema.cc of openxla/xla):

- TPU: planes `/device:TPU:N`, line `XLA Ops`, an event an instruction, named by it;
- GPU: planes `/device:GPU:N`, a line a stream, an event a kernel, whose stat `hlo_op` names the
  instruction;
- CPU: plane `/host:CPU`, a line a thread, an event an instruction (stat `hlo_op`), which only
  starts it where it runs in parallel. The pieces it hands to other threads are known by the numbers
  of `ThreadpoolListener` events.
"""

import bisect
import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jax.profiler import ProfileData, ProfileEvent, ProfilePlane

from jaxtag.errors import UserError

# (start, end, instruction) in ns: a device, one of its threads or streams, works on it.
Interval = tuple[float, float, str]
Line = tuple[list[Interval], Counter[str]]  # of a thread or stream; how often each ran

_RECORD, _START, _STOP = (
    f"ThreadpoolListener::{word}" for word in ("Record", "StartRegion", "StopRegion")
)
_TRANSFERS = ("Memcpy", "Memset")  # of CUDA
_SCHEDULER = "ThunkExecutor::"  # of XLA on CPU: its own work is that of no kernel


@dataclasses.dataclass(frozen=True)
class Busy:
    """What one device did in the traced window.

    Attributes:
      seconds: by instruction. Of a moment in which several run, each has the share of the threads
        (streams) that work on it, so that the sum is the time in which any ran.
      counts: how often each ran.
    """

    seconds: Counter[str]
    counts: Counter[str]

    @property
    def total(self) -> float:
        """Seconds in which any kernel ran."""
        return sum(self.seconds.values())


def read(folder: Path, module: str) -> list[Busy]:
    """What each device of this process did, by the newest trace in `folder`.

    Args:
      module: the HLO module's name; kernels of other programs do not count.

    Raises:
      UserError: there is no trace, or no kernel of the module in it.
    """
    files = sorted(folder.glob("plugins/profile/*/*.xplane.pb"))
    if not files:
        raise UserError(f"{folder} holds no trace: the profiler wrote none")
    planes = list(ProfileData.from_file(str(files[-1])).planes)
    devices = [plane for plane in planes if plane.name.startswith(("/device:TPU", "/device:GPU"))]
    if devices:
        found = [_busy(_of_accelerator(plane, module)) for plane in devices]
    else:
        host = next(plane for plane in planes if plane.name == "/host:CPU")
        found = [_busy(intervals) for intervals in _of_cpu(host, module).values()]
    found = [busy for busy in found if busy.seconds]
    if not found:
        raise UserError(f"{files[-1]} holds no kernel of {module}: the profiler saw none")
    return found


def _busy(lines: list[Line]) -> Busy:
    counts: Counter[str] = Counter()
    for _, more in lines:
        counts += more
    return Busy(shares([intervals for intervals, _ in lines]), counts)


def shares(lines: Iterable[list[Interval]]) -> Counter[str]:
    """Seconds by instruction, as in `Busy`, from what each thread or stream did."""
    edges = heapq.merge(*(sorted(_edges(line), key=lambda edge: edge[:2]) for line in lines))
    working: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    last = 0.0
    for now, change, name in edges:
        if working and now > last:
            share = (now - last) / 1e9 / working.total()
            for running, threads in working.items():
                seconds[running] += threads * share
        last = now
        working[name] += change
        if not working[name]:
            del working[name]
    return seconds


def _edges(line: list[Interval]) -> Iterator[tuple[float, int, str]]:
    for start, end, name in line:
        if end > start:
            yield start, 1, name
            yield end, -1, name


def innermost(nested: list[tuple[float, float, Any]]) -> list[tuple[float, float, Any]]:
    """Of intervals that lie in each other, as calls do, where each is the innermost."""
    parts: list[tuple[float, float, Any]] = []
    stack: list[tuple[float, Any]] = []  # (end, name)
    since = 0.0

    def reach(moment: float) -> None:
        nonlocal since
        while stack and stack[-1][0] <= moment:
            end, name = stack.pop()
            parts.append((since, end, name))
            since = max(since, end)
        if stack:
            parts.append((since, moment, stack[-1][1]))
        since = moment

    for start, end, name in sorted(nested, key=lambda interval: (interval[0], -interval[1])):
        reach(start)
        if stack:
            end = min(end, stack[-1][0])
        stack.append((end, name))
    reach(float("inf"))
    return parts


def _of_accelerator(plane: ProfilePlane, module: str) -> list[Line]:
    tpu = plane.name.startswith("/device:TPU")
    found = []
    for line in plane.lines:
        if tpu and line.name != "XLA Ops":
            continue
        events = []
        for event in line.events:
            stats = dict(event.stats)
            if stats.get("hlo_module", module) != module:
                continue
            if "hlo_op" not in stats and event.name.startswith(_TRANSFERS):
                continue
            # A TPU's event has the whole instruction as its name; a GPU's kernel that was started
            # from a CUDA graph names none, and stays under its own name.
            name = event.name.partition(" = ")[0].lstrip("%") if tpu else event.name
            events.append((event.start_ns, event.end_ns, stats.get("hlo_op") or name))
        found.append((innermost(events), Counter(name for *_, name in events)))
    return found


def _of_cpu(plane: ProfilePlane, module: str) -> dict[int, list[Line]]:
    """By device: what each thread did for it."""
    threads = [_thread(line.events, module) for line in plane.lines]
    given = {number: by for thread in threads for number, by in thread.given.items()}

    def owner(by: _By) -> _Kernel | None:
        while isinstance(by, int):
            by = given.get(by)
        return by

    found: dict[int, list[Line]] = {}
    for thread in threads:
        owned = [(start, end, owner(by)) for start, end, by in thread.parts]
        for device in {kernel.device for *_, kernel in owned if kernel}:
            own = [(a, b, k.name) for a, b, k in owned if k and k.device == device]
            counts = Counter(k.name for k in thread.started if k.device == device)
            found.setdefault(device, []).append((own, counts))
    return found


class _Kernel(NamedTuple):
    """An instruction on a device."""

    name: str
    device: int


_By = _Kernel | int | None  # whose work: a kernel's, that of a piece handed over, the scheduler's


class _Thread(NamedTuple):
    """What a thread of a CPU did.

    Fields:
      parts: (start, end, by whom) without overlap.
      given: number of a piece of work that it handed to other threads → on whose behalf.
      started: the kernels.
    """

    parts: list[tuple[float, float, _By]]
    given: dict[int, _By]
    started: list[_Kernel]


def _thread(events: Iterable[ProfileEvent], module: str) -> _Thread:
    nested: list[tuple[float, float, _By]] = []
    records, started, open_pieces = [], [], []
    for event in sorted(events, key=lambda event: event.start_ns):
        name, start = event.name, event.start_ns
        if name.startswith(_SCHEDULER):
            nested.append((start, event.end_ns, None))
        elif name == _START:
            open_pieces.append((start, dict(event.stats)["_c"]))
        elif name == _STOP and open_pieces:
            began, number = open_pieces.pop()
            nested.append((began, start, number))
        elif name == _RECORD:
            records.append((start, dict(event.stats)["_p"]))
        elif not name.startswith("end: "):
            stats = dict(event.stats)
            if stats.get("hlo_module") == module and "hlo_op" in stats:
                started.append(_Kernel(stats["hlo_op"], stats.get("device_ordinal", 0)))
                nested.append((start, event.end_ns, started[-1]))
    parts = innermost(nested)
    begins = [start for start, *_ in parts]
    given = {}
    for moment, number in records:
        place = bisect.bisect_right(begins, moment) - 1
        inside = place >= 0 and moment <= parts[place][1]
        given[number] = parts[place][2] if inside else None
    return _Thread(parts, given, started)
