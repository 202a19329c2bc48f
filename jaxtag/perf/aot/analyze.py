"""What a compiled training step costs on each device, read out of the program."""

import dataclasses
import math
import re
from typing import Any

import jax

from jaxtag.distributed.sharding import ParamSharding
from jaxtag.perf import collectives, hbm_traffic, hlo
from jaxtag.perf.aot.lower import Compiled, DoesNotFit, Lowered
from jaxtag.perf.aot.topologies import Topology
from jaxtag.perf.hardware import Chip
from jaxtag.perf.hlo import Instruction, Program
from jaxtag.training.setup import TrainSetup

_SMALL = 2**14  # elements, below which a whole copy on every device is meant


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
        times * hbm_traffic.hbm_bytes(program, instruction)
        for name, times in turns.items()
        for instruction in program.computations[name]
    )


def replicated_by_accident(experiment: TrainSetup) -> list[ParamSharding]:
    """Large parameters of which every device has a whole copy though the mesh could split them."""
    splits = experiment.mesh.shape["fsdp"] > 1
    return [
        item
        for item in experiment.placements
        if math.prod(item.shape) >= _SMALL and not any(item.spec) and (splits or item.note)
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
    wanted = (*collectives.COLLECTIVES, "convolution", "dot", "while", "custom-call")
    return opcode if opcode in wanted else None


@dataclasses.dataclass(frozen=True)
class Roofline:
    """How long a step takes at least, by resource, in seconds.

    Attributes:
      links: within a slice of TPUs, or a host of GPUs.
      network: between them; None where nobody says how fast it is.
    """

    arithmetic: float
    memory: float
    links: float
    network: float | None

    @property
    def seconds(self) -> float:
        return getattr(self, self.binding)

    @property
    def binding(self) -> str:
        """The resource that takes longest."""
        known = {name: s for name, s in dataclasses.asdict(self).items() if s is not None}
        return max(known, key=lambda name: known[name])


def read(compiled: Compiled, topology: Topology) -> dict[str, Any]:
    """All of it, as `jaxtag.compile` writes it in JSON."""
    chip = topology.chip
    experiment, text = compiled.lowered.experiment, compiled.program.as_text()
    devices, batch = experiment.mesh.devices.size, experiment.config.batch_size
    program = hlo.parse(text)
    turns = hbm_traffic.trip_counts(program, text)
    inside = hbm_traffic.trip_counts(program, text, fused=True)
    found = collectives.collectives(program, inside)
    away = collectives.network_bytes(program, inside, topology.islands, devices)
    moved = hbm_bytes(program, turns)
    bound = Roofline(
        arithmetic=compiled.lowered.flops / devices / chip.bfloat16_flops,
        memory=moved / chip.memory_bandwidth,
        links=collectives.link_seconds(found, devices, chip),
        network=_network_seconds(away, chip),
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
        "network_bytes_per_device": away,
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


def _network_seconds(sent: float, chip: Chip) -> float | None:
    if not sent:
        return 0.0
    return sent / chip.network_bandwidth if chip.network_bandwidth else None


def _each(costs: dict[str, float], name: str, share: float) -> float | None:
    """A cost of XLA's for one picture; None where it does not say."""
    return costs[name] * share if name in costs else None


def read_failure(lowered: Lowered, error: DoesNotFit, chip: Chip) -> dict[str, Any]:
    """What is known of a step that does not fit; the rest is None."""
    unknown = (
        "hbm_bytes_per_example",
        "collectives",
        "network_bytes_per_device",
        "bound",
        "compile_seconds",
    )
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
