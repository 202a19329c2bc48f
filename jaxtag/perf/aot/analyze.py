"""Costs of a compiled training step on each device, from the program's text."""

import dataclasses
import math
import re
from typing import Any

import jax

from jaxtag.distributed.sharding import ParamSharding
from jaxtag.perf import collectives, hbm_traffic, hlo, step_inputs
from jaxtag.perf import compiled as xla
from jaxtag.perf.aot import schedule
from jaxtag.perf.aot.lower import Compiled, DoesNotFitError, Lowered
from jaxtag.perf.aot.topologies import Topology
from jaxtag.perf.hardware import Chip
from jaxtag.perf.hlo import Instruction, Program
from jaxtag.perf.profile.attribution import ModuleTree, Origins
from jaxtag.training.setup import TrainSetup

_SMALL = 2**14  # elements, below which parameters are replicated on purpose


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds of a step's time by resource, in seconds.

    Attributes:
        arithmetic: Of the matrix units.
        memory: Of the main memory's bandwidth.
        links: Within a slice of TPUs, or a host of GPUs.
        network: Between them; None where its bandwidth is unknown.
        exposed_links: Of `links`, the time of collectives beside which nothing else runs.
    """

    arithmetic: float
    memory: float
    links: float
    network: float | None
    exposed_links: float

    @property
    def seconds(self) -> float:
        """The largest of the bounds; arithmetic and memory wait for exposed collectives."""
        computing = max(self.arithmetic, self.memory)
        return max(computing + self.exposed_links, *self._bounds.values())

    @property
    def binding(self) -> str:
        """The resource with the largest bound."""
        return max(self._bounds, key=lambda name: self._bounds[name])

    @property
    def _bounds(self) -> dict[str, float]:
        bounds = {name: s for name, s in dataclasses.asdict(self).items() if s is not None}
        del bounds["exposed_links"]
        return bounds


def analyze(compiled: Compiled, topology: Topology) -> dict[str, Any]:
    """All costs of a step, as `jaxtag.compile` writes them in JSON."""
    chip, setup = topology.chip, compiled.lowered.setup
    text = xla.text(compiled.program)
    devices, batch_size = setup.mesh.devices.size, setup.config.batch_size
    program = hlo.parse(text)
    fused_counts = hbm_traffic.trip_counts(program, text, fused=True)
    by_kind = collectives.collectives(program, fused_counts)
    network = collectives.network_bytes(program, fused_counts, topology.islands, devices)
    traffic = hbm_traffic.step_hbm_bytes(program, hbm_traffic.trip_counts(program, text))
    roofline = Roofline(
        arithmetic=compiled.lowered.flops / devices / chip.bfloat16_flops,
        memory=traffic / chip.memory_bandwidth,
        links=_link_seconds(by_kind, "sent", devices, chip),
        network=_network_seconds(network, chip),
        exposed_links=_link_seconds(by_kind, "exposed", devices, chip),
    )
    timeline = schedule.schedule(program, text, chip, devices)
    memory = memory_by_kind(compiled.program, chip)
    costs = xla.cost_analysis(compiled.program)
    return {
        **_summary(compiled.lowered),
        "fits": memory["peak"] <= memory["capacity"],
        "memory_bytes_per_device": memory,
        "hbm_bytes_per_example": traffic * devices / batch_size,
        "xla": {  # loop bodies counted once, on-chip arrays as in main memory
            "flops_per_example": _scaled(costs, "flops", devices / batch_size),
            "bytes_accessed_per_example": _scaled(costs, "bytes accessed", devices / batch_size),
        },
        "collectives": {kind: dataclasses.asdict(item) for kind, item in by_kind.items()},
        "network_bytes_per_device": network,
        "bound": {
            "by": roofline.binding,
            "seconds": roofline.seconds,
            "examples_per_second": batch_size / roofline.seconds,
            "seconds_by_resource": dataclasses.asdict(roofline),
            "peaks": dataclasses.asdict(chip),
        },
        "schedule": {"seconds": timeline.seconds, "waited_seconds": timeline.waited},
        "program": fingerprint(program, text),
        "compile_seconds": compiled.seconds,
    }


def page_data(compiled: Compiled, topology: Topology, result: dict[str, Any]) -> dict[str, Any]:
    """What the page of a compiled step shows: `result`, and each event of its timeline.

    Args:
        compiled: The step.
        topology: That it is compiled for.
        result: What `jaxtag.compile` writes to --output.
    """
    setup = compiled.lowered.setup
    text = xla.text(compiled.program)
    program = hlo.parse(text)
    devices = setup.mesh.devices.size
    timeline = schedule.schedule(program, text, topology.chip, devices)
    modules = ModuleTree(setup, step_inputs.batch_shapes(setup.task, setup.mesh))
    return {
        **result,
        "title": step_inputs.title(setup.config),
        "events": schedule.rows(timeline, Origins(program, modules)),
    }


def analyze_failure(lowered: Lowered, error: DoesNotFitError, chip: Chip) -> dict[str, Any]:
    """`analyze` of a step that does not fit: what is unknown is None."""
    unknown = (
        "hbm_bytes_per_example",
        "collectives",
        "network_bytes_per_device",
        "bound",
        "schedule",
        "compile_seconds",
    )
    return {
        **_summary(lowered),
        **dict.fromkeys(unknown),
        "fits": False,
        "memory_bytes_per_device": {
            **dict.fromkeys(("arguments", "outputs", "temporaries", "code")),
            "peak": error.peak,
            "capacity": error.capacity or chip.memory_bytes,
        },
    }


def memory_by_kind(program: jax.stages.Compiled, chip: Chip) -> dict[str, int]:
    """Bytes on each device by kind; `peak`, their sum, is an upper bound of what is live at once.

    `arguments`: state and batch; `outputs`: those that alias no argument; `temporaries`: within the
    step; `code`: the program.
    """
    stats = xla.memory_analysis(program)
    kinds = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return {**kinds, "peak": sum(kinds.values()), "capacity": chip.memory_bytes}


def unintended_replicas(setup: TrainSetup) -> list[ParamSharding]:
    """Large parameters that are replicated on every device although the mesh could split them."""
    is_split = setup.mesh.shape["fsdp"] > 1
    return [
        item
        for item in setup.param_shardings
        if math.prod(item.shape) >= _SMALL and not any(item.spec) and (is_split or item.note)
    ]


def fingerprint(program: Program, text: str) -> dict[str, Any]:
    """What a review should see change: fusions, collectives, convolutions, donated buffers."""
    counts: dict[str, int] = {}
    for body in program.computations.values():
        for instruction in body:
            if name := _fingerprint_name(instruction):
                counts[name] = counts.get(name, 0) + 1
    header = text.partition("\n")[0]
    donated = len(re.findall(r"(?:may|must)-alias", header))
    return {**dict(sorted(counts.items())), "donated buffers": donated}


def _fingerprint_name(instruction: Instruction) -> str | None:
    """What it counts as; None where it does not."""
    if instruction.opcode == "fusion":
        kind = hlo.search(r"kind=k(\w+)", instruction.attributes)[1]
        return f"fusion {kind.lower()}"
    opcode = instruction.opcode.removesuffix("-start")
    opcodes = (*collectives.COLLECTIVES, "convolution", "dot", "while", "custom-call")
    return opcode if opcode in opcodes else None


def _link_seconds(
    by_kind: dict[str, collectives.Collective], field: str, devices: int, chip: Chip
) -> float:
    sent = sum(getattr(item, field) for item in by_kind.values())
    return collectives.link_seconds(sent, devices, chip)


def _network_seconds(sent: float, chip: Chip) -> float | None:
    if not sent:
        return 0.0
    return sent / chip.network_bandwidth if chip.network_bandwidth else None


def _scaled(costs: dict[str, float], name: str, factor: float) -> float | None:
    """A cost of XLA's times a factor; None where XLA does not tell it."""
    return costs[name] * factor if name in costs else None


def _summary(lowered: Lowered) -> dict[str, Any]:
    """What is known before XLA compiles."""
    setup = lowered.setup
    batch_size = setup.config.batch_size
    return {
        "devices": setup.mesh.devices.size,
        "mesh": dict(setup.mesh.shape),
        "batch_size": batch_size,
        "flops_per_example": lowered.flops / batch_size,
        "gradient_bytes": sum(4 * math.prod(item.shape) for item in setup.param_shardings),
        "replicated": [item.path for item in unintended_replicas(setup)],
        "lower_seconds": lowered.seconds,
    }
