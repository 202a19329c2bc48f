"""A compiled step on a timeline: when each kernel and each collective runs at the earliest.

A model of one device, from the scheduled program alone: kernels run one after another in the order
of the program, each as long as its arithmetic or its memory traffic takes at the peak; collectives
use the links, one after another, from the instruction that starts them on. Where one is awaited
before it has ended, kernels wait. The end is a lower bound of a step's time that is closer than
those of single resources (`analyze.Roofline`), since no work is moved to where a link was idle.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtag.perf import collectives, hbm_traffic, hlo
from jaxtag.perf.hardware import Chip
from jaxtag.perf.hlo import Instruction, Program
from jaxtag.perf.profile import costs
from jaxtag.perf.profile.attribution import Origins


@dataclasses.dataclass(frozen=True)
class Event:
    """One instruction on the timeline; in a loop, its first run.

    Attributes:
        name: Of the instruction.
        opcode: Its opcode.
        lane: "kernel", "collective" or "loop" (the further runs of a loop's body).
        start: Seconds since the step began.
        seconds: Least time of one run.
        waited: Seconds for which kernels wait until it has ended (collectives), of one run.
        runs: Runs in a step.
        flops: Of one run, on one device.
        bytes: Of one run: memory traffic of a kernel, bytes that a collective sends.
    """

    name: str
    opcode: str
    lane: str
    start: float
    seconds: float
    waited: float = 0.0
    runs: int = 1
    flops: int = 0
    bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A step's timeline.

    Attributes:
        events: In the order of the program.
        seconds: When the last kernel and collective have ended.
    """

    events: list[Event]
    seconds: float

    @property
    def waited(self) -> float:
        """Seconds of a step for which kernels wait for collectives."""
        return sum(event.waited * event.runs for event in self.events)


def schedule(program: Program, text: str, chip: Chip, devices: int) -> Schedule:
    """Lays a compiled step out on a timeline.

    Args:
        program: The parsed `text`.
        text: Of the compiled, scheduled program.
        chip: That it is compiled for.
        devices: Number of all devices.
    """
    timeline = _Timeline(program, text, chip, devices)
    timeline.run(program.entry, 1)
    return Schedule(timeline.events, max(timeline.now, timeline.links_free))


def rows(schedule: Schedule, origins: Origins) -> list[dict[str, Any]]:
    """The events with the part of the model and the line of code that each comes from, as JSON."""
    listed = []
    for event in schedule.events:
        origin = origins.of(event.name)
        row = dataclasses.asdict(event)
        row |= {"part": origin.part, "phase": origin.phase, "line": origin.line}
        listed.append(row)
    return listed


class _Timeline:
    """The clocks of a device's kernels and links, while the program is walked."""

    def __init__(self, program: Program, text: str, chip: Chip, devices: int):
        self._program, self._chip, self._devices = program, chip, devices
        self._constants = hbm_traffic.constants(text)
        self.events: list[Event] = []
        self.now = self.links_free = 0.0
        self._pending: dict[str, tuple[int, float]] = {}  # start -> (event's index, its end)

    def run(self, computation: str, runs: int) -> None:
        """Walks a computation that a step runs `runs` times."""
        for item in self._program.computations[computation]:
            if item.opcode == "while":
                self._loop(item, runs)
            elif item.opcode == "conditional":
                self._branches(item, runs)
            elif item.opcode == "call":
                for called in item.called:
                    self.run(called, runs)
            elif item.opcode.endswith("-done"):
                self._await(item)
            elif found := self._collective(item):
                self._exchange(item, *found, runs)
            else:
                self._kernel(item, runs)

    def _kernel(self, item: Instruction, runs: int) -> None:
        flops = costs.flops(self._program, item)
        traffic = hbm_traffic.hbm_bytes(self._program, item)
        seconds = max(
            flops / self._chip.bfloat16_flops if costs.is_matmul(self._program, item) else 0.0,
            traffic / self._chip.memory_bandwidth,
        )
        if seconds:
            self.events.append(
                Event(
                    *(item.name, item.opcode, "kernel", self.now, seconds),
                    runs=runs,
                    flops=flops,
                    bytes=traffic,
                )
            )
            self.now += seconds

    def _exchange(
        self,
        item: Instruction,
        collective: Instruction,
        link: collectives.ChainLink | None,
        runs: int,
    ) -> None:
        """A collective, or a part of the chain of fusions that runs beside one."""
        if link is None or link.role == "start":
            self._start(item, collective, link, runs)
        elif link.role == "beside":
            self._kernel(item, runs)
        elif pending := self._pending.pop(link.chain, None):
            self._wait(*pending)

    def _start(
        self,
        item: Instruction,
        collective: Instruction,
        link: collectives.ChainLink | None,
        runs: int,
    ) -> None:
        """A collective begins once the links are free; one that nothing awaits apart blocks."""
        _, sent = collectives.volume(self._program, collective)
        seconds = collectives.link_seconds(sent, self._devices, self._chip)
        start = max(self.now, self.links_free)
        self.links_free = start + seconds
        opcode = collective.opcode.removesuffix("-start")
        self.events.append(
            Event(item.name, opcode, "collective", start, seconds, runs=runs, bytes=sent),
        )
        if link or item.opcode.endswith("-start"):
            key = link.chain if link else item.name
            self._pending[key] = (len(self.events) - 1, self.links_free)
        elif item.opcode == "fusion":  # its kernel runs beside its collective
            self._kernel(item, runs)
            self._wait(len(self.events) - 2, self.links_free)
        else:
            self._wait(len(self.events) - 1, self.links_free)

    def _await(self, item: Instruction) -> None:
        if pending := self._pending.pop(item.operands[0] if item.operands else "", None):
            self._wait(*pending)

    def _wait(self, index: int, end: float) -> None:
        if end > self.now:
            event = self.events[index]
            self.events[index] = dataclasses.replace(event, waited=end - self.now)
            self.now = end

    def _loop(self, loop: Instruction, runs: int) -> None:
        """The first run of the body in full, the others as one event of as long each."""
        count = hbm_traffic.loop_trip_count(self._program, loop, self._constants)
        began = self.now
        body = hlo.search(r"body=%?([\w.\-]+)", loop.attributes)[1]
        self.run(body, runs * count)
        if rest := (count - 1) * (self.now - began):
            self.events.append(Event(loop.name, "while", "loop", self.now, rest, runs=runs))
            self.now += rest
            self.links_free = max(self.links_free, self.now)

    def _branches(self, item: Instruction, runs: int) -> None:
        """The longest branch."""
        began, count = self.now, len(self.events)
        longest: tuple[float, list[Event]] = (began, [])
        for called in item.called:
            self.now = began
            self.run(called, runs)
            longest = max(longest, (self.now, self.events[count:]), key=lambda branch: branch[0])
            del self.events[count:]
        self.now = longest[0]
        self.events += longest[1]

    def _collective(
        self, item: Instruction, body: Sequence[Instruction] = ()
    ) -> tuple[Instruction, collectives.ChainLink | None] | None:
        """The collective that an instruction is, starts or contains, and its place in a chain."""
        if item.opcode.removesuffix("-start") in collectives.COLLECTIVES:
            return item, collectives.chain_link(body, item)
        if item.opcode not in ("async-start", "fusion"):
            return None
        bodies = (self._program.computations[name] for name in item.called)
        inner = (self._collective(i, body) for body in bodies for i in body)
        return next(filter(None, inner), None)
