"""What a compiled training step costs on each device, read out of the program."""

import dataclasses
import math
import re
from typing import Any

import jax

from jaxtag.ahead import traffic
from jaxtag.ahead.chips import Chip
from jaxtag.ahead.lowering import Compiled, DoesNotFit, Lowered
from jaxtag.parallel.sharding import Placement
from jaxtag.profiling import hlo
from jaxtag.profiling.hlo import Instruction, Program, bytes_of
from jaxtag.training.experiment import Experiment

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_SMALL = 2**14  # elements, below which a whole copy on every device is meant


@dataclasses.dataclass(frozen=True)
class Collective:
    """All exchanges of one kind between devices, in a step.

    Attributes:
      count: instructions of the program.
      runs: how often they are run, the turns of loops counted.
      bytes: that a device gives to them in all runs.
      sent: bytes that leave it in a ring of many devices: all that it gives, twice for an
        all-reduce; for an all-gather all that comes together.
      overlapped: instructions that are started and awaited apart, so that others run meanwhile.
    """

    count: int
    runs: int
    bytes: int
    sent: int
    overlapped: int

    def __add__(self, other: "Collective") -> "Collective":
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        return Collective(*map(sum, zip(mine, others, strict=True)))


def memory(program: jax.stages.Compiled, chip: Chip) -> dict[str, int]:
    """Bytes on each device, by kind. `peak` is what is held at once, at most.

    `arguments`: state and batch; `outputs`: those that do not take an argument's place;
    `temporaries`: within the step; `code`: the program.
    """
    found = program.memory_analysis()
    kinds = {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "code": found.generated_code_size_in_bytes,
    }
    return {**kinds, "peak": sum(kinds.values()), "capacity": chip.memory_bytes}


def hbm_bytes(program: Program, turns: dict[str, int]) -> int:
    """That a step moves to and from a device's main memory (see `traffic`)."""
    return sum(
        times * traffic.hbm_bytes(program, instruction)
        for name, times in turns.items()
        for instruction in program.computations[name]
    )


def collectives(program: Program, turns: dict[str, int]) -> dict[str, Collective]:
    """The exchanges of a step by kind; `turns` are those inside of fusions too."""
    apart = {
        name
        for item in program.instructions.values()
        if item.opcode == "async-start"
        for name in item.called
    }
    found: dict[str, Collective] = {}
    for name, times in turns.items():
        for item in program.computations[name]:
            kind = item.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                given = sum(bytes_of(program.instructions[one].shape) for one in item.operands)
                together = item.bytes if item.opcode == kind else item.bytes - given
                sent = {"all-reduce": 2 * given, "all-gather": together}.get(kind, given)
                # XLA for GPUs starts all of them apart, and marks those that it awaits at once.
                waits = '"is_sync":true' in item.attributes
                beside = (item.opcode != kind or name in apart) and not waits
                one = Collective(1, times, times * given, times * sent, int(beside))
                found[kind] = one + found[kind] if kind in found else one
    return dict(sorted(found.items()))


def link_seconds(found: dict[str, Collective], devices: int, chip: Chip) -> float:
    """How long the exchanges take at least, with each device's links full.

    In a ring over all devices (Patarasu and Yuan 2009, section 3).
    """
    sent = sum(item.sent for item in found.values())
    return sent * (devices - 1) / devices / chip.link_bandwidth


def replicated_by_accident(experiment: Experiment) -> list[Placement]:
    """Large parameters of which every device has a whole copy though the mesh could split them."""
    splits = experiment.mesh.shape["fsdp"] > 1
    return [
        item
        for item in experiment.placements
        if math.prod(item.shape) >= _SMALL and not any(item.spec) and (splits or item.remark)
    ]


def fingerprint(program: Program, text: str) -> dict[str, Any]:
    """What a review should see change: fusions, exchanges, convolutions, donated buffers."""
    counts: dict[str, int] = {}
    for body in program.computations.values():
        for instruction in body:
            name = _interesting(instruction)
            if name:
                counts[name] = counts.get(name, 0) + 1
    header = text.partition("\n")[0]
    donated = len(re.findall(r"(?:may|must)-alias", header))
    return {**dict(sorted(counts.items())), "donated buffers": donated}


def _interesting(instruction: Instruction) -> str | None:
    if instruction.opcode == "fusion":
        kind = re.search(r"kind=k(\w+)", instruction.attributes)
        return f"fusion {kind[1].lower()}"
    opcode = instruction.opcode.removesuffix("-start")
    wanted = (*COLLECTIVES, "convolution", "dot", "while", "custom-call")
    return opcode if opcode in wanted else None


@dataclasses.dataclass(frozen=True)
class Bound:
    """How long a step takes at least, by resource, in seconds."""

    arithmetic: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        return max(self.arithmetic, self.memory, self.links)

    @property
    def binding(self) -> str:
        """The resource that takes longest."""
        return max(("arithmetic", "memory", "links"), key=lambda name: getattr(self, name))


def read(compiled: Compiled, chip: Chip) -> dict[str, Any]:
    """All of it, as `jaxtag.compile` writes it in JSON."""
    experiment, text = compiled.lowered.experiment, compiled.program.as_text()
    devices, batch = experiment.mesh.devices.size, experiment.config.batch_size
    program = hlo.parse(text)
    turns = traffic.turns(program, text)
    found = collectives(program, traffic.turns(program, text, fused=True))
    moved = hbm_bytes(program, turns)
    bound = Bound(
        arithmetic=compiled.lowered.flops / devices / chip.bfloat16_flops,
        memory=moved / chip.memory_bandwidth,
        links=link_seconds(found, devices, chip),
    )
    held = memory(compiled.program, chip)
    xla = compiled.program.cost_analysis() or {}  # there is none for GPUs
    return {
        **heading(compiled.lowered),
        "fits": held["peak"] <= held["capacity"],
        "memory_bytes_per_device": held,
        "hbm_bytes_per_example": moved * devices / batch,
        "xla": {  # the bodies of loops counted once, arrays on the chip as in main memory
            "flops_per_example": _each(xla, "flops", devices / batch),
            "bytes_accessed_per_example": _each(xla, "bytes accessed", devices / batch),
        },
        "collectives": {kind: dataclasses.asdict(item) for kind, item in found.items()},
        "bound": {
            "by": bound.binding,
            "seconds": bound.seconds,
            "examples_per_second": batch / bound.seconds,
            "seconds_by_resource": dataclasses.asdict(bound),
            "peaks": dataclasses.asdict(chip),
        },
        "program": fingerprint(program, text),
        "compile_seconds": compiled.seconds,
    }


def _each(costs: dict[str, float], name: str, share: float) -> float | None:
    """A cost of XLA's for one picture; None where it does not say."""
    return costs[name] * share if name in costs else None


def read_failure(lowered: Lowered, error: DoesNotFit, chip: Chip) -> dict[str, Any]:
    """What is known of a step that does not fit; the rest is None."""
    unknown = ("hbm_bytes_per_example", "collectives", "bound", "compile_seconds")
    return {
        **heading(lowered),
        **dict.fromkeys(unknown),
        "fits": False,
        "memory_bytes_per_device": {
            **dict.fromkeys(("arguments", "outputs", "temporaries", "code")),
            "peak": error.peak,
            "capacity": error.capacity or chip.memory_bytes,
        },
    }


def heading(lowered: Lowered) -> dict[str, Any]:
    """What is known before XLA compiles."""
    experiment = lowered.experiment
    batch = experiment.config.batch_size
    return {
        "devices": experiment.mesh.devices.size,
        "mesh": dict(experiment.mesh.shape),
        "batch_size": batch,
        "flops_per_example": lowered.flops / batch,
        "gradient_bytes": sum(4 * math.prod(item.shape) for item in experiment.placements),
        "replicated": [item.path for item in replicated_by_accident(experiment)],
        "lower_seconds": lowered.seconds,
    }
