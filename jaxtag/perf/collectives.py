"""What the devices of a compiled program give each other, over links and over the network."""

import dataclasses
import math
import re

import numpy as np

from jaxtag.perf.hardware import Chip
from jaxtag.perf.hlo import Instruction, Program, bytes_of

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# Of one exchange between slices, as XLA for TPUs hands it to the runtime that does it.
_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_GROUPS = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


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
                given, sent = _volume(program, item)
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


def network_bytes(program: Program, turns: dict[str, int], islands: int, devices: int) -> float:
    """That a device sends in a step to other islands (slices of TPUs, hosts of GPUs), at least.

    In rings over the islands, in which each device of an island carries its share.

    Args:
      turns: those inside of fusions too.
      islands: equal parts of all `devices`, in the order of the mesh.
    """
    if islands == 1:
        return 0.0
    return sum(
        times * _over_network(program, item, islands, devices // islands)
        for name, times in turns.items()
        for item in program.computations[name]
    )


def _over_network(program: Program, item: Instruction, islands: int, size: int) -> float:
    """What one run of an instruction sends."""
    if item.opcode == "send" and (found := _MEGASCALE.search(item.attributes)):
        share = (islands - 1) / islands
        shares = {
            "ALL_REDUCE": 2 * share,
            "ALL_GATHER": islands - 1,
            "REDUCE_SCATTER": share,
            "ALL_TO_ALL": share,
        }
        return shares.get(found[1], 1) * bytes_of(program.instructions[item.operands[0]].shape)
    kind = item.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return 0.0
    given, sent = _volume(program, item)
    groups = [{device // size for device in group} for group in _groups(item.attributes)]
    reached = max(map(len, groups), default=islands)  # without groups: all devices
    if kind == "collective-permute":
        return given if reached > 1 else 0.0
    members = max(map(len, _groups(item.attributes)), default=islands * size)
    carriers = 1 if kind.endswith("all-to-all") else members / reached
    return sent * (reached - 1) / reached / carriers


def _volume(program: Program, item: Instruction) -> tuple[int, int]:
    """Bytes that a device gives to an exchange, and those that leave it in a ring of many."""
    kind = item.opcode.removesuffix("-start")
    given = sum(bytes_of(program.instructions[one].shape) for one in item.operands)
    together = item.bytes if item.opcode == kind else item.bytes - given
    return given, {"all-reduce": 2 * given, "all-gather": together}.get(kind, given)


def _groups(attributes: str) -> list[list[int]]:
    """The devices that exchange with each other, group by group, or pair by pair."""
    if found := _GROUPS.search(attributes):
        return [_numbers(group) for group in found[1].strip("{}").split("},{")]
    if found := _IOTA_GROUPS.search(attributes):
        shape, dims = _numbers(found[1]), _numbers(found[2])
        order = _numbers(found[3]) if found[3] else range(len(dims))
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape).tolist()
    if found := _MESH_GROUPS.search(attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        together = re.findall(r"'(\w+)'", found[2])
        apart = [list(sizes).index(name) for name in sizes if name not in together]
        order = apart + [list(sizes).index(name) for name in together]
        ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values())).transpose(order)
        return ids.reshape(-1, math.prod(sizes[name] for name in together)).tolist()
    return []


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
