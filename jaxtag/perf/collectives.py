"""Collectives of a compiled program: how often they run, and bytes over links and network."""

import dataclasses
import math
import re
from collections.abc import Sequence

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
# Of a collective between slices, as XLA for TPUs hands it to the runtime (Megascale) that does it.
_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
# XLA for TPUs overlaps a collective by repeating it in a chain of fusions: one starts it, others
# compute beside it, one awaits it.
_CHAIN = re.compile(r'chain_id="(\d+)"')
_CHAIN_END = re.compile(r'custom_call_target="AsyncCollective(Start|Done)"')
_GROUPS = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a step.

    Attributes:
        count: Instructions of the program.
        runs: How often they run, with the trip counts of loops.
        bytes: Input bytes of one device, over all runs.
        sent: Bytes that leave a device in a ring of many devices: its input, twice for an
            all-reduce; for an all-gather, the whole result.
        overlapped: Instructions that are started and awaited apart, so that others run meanwhile.
        exposed: Of `sent`, the bytes of the other instructions, during which nothing else runs.
    """

    count: int
    runs: int
    bytes: int
    sent: int
    overlapped: int
    exposed: int

    def __add__(self, other: "Collective") -> "Collective":
        return Collective(
            self.count + other.count,
            self.runs + other.runs,
            self.bytes + other.bytes,
            self.sent + other.sent,
            self.overlapped + other.overlapped,
            self.exposed + other.exposed,
        )


def collectives(program: Program, counts: dict[str, int]) -> dict[str, Collective]:
    """The collectives of a step by kind.

    Args:
        program: A compiled step.
        counts: Its `hbm_traffic.trip_counts`, with those inside fusions.
    """
    asynchronous = {
        name
        for item in program.instructions.values()
        if item.opcode == "async-start"
        for name in item.called
    }
    by_kind: dict[str, Collective] = {}
    for name, count in counts.items():
        for item in program.computations[name]:
            kind = item.opcode.removesuffix("-start")
            chain = chain_link(program.computations[name], item)
            if kind not in COLLECTIVES or (chain and chain.role != "start"):
                continue
            size, sent = volume(program, item)
            # XLA for GPUs starts all of them asynchronously, and marks those it awaits at once.
            is_sync = '"is_sync":true' in item.attributes
            is_asynchronous = chain is not None or item.opcode != kind or name in asynchronous
            is_overlapped = is_asynchronous and not is_sync
            total_sent = count * sent
            exposed = 0 if is_overlapped else total_sent
            one = Collective(1, count, count * size, total_sent, int(is_overlapped), exposed)
            by_kind[kind] = one + by_kind[kind] if kind in by_kind else one
    return dict(sorted(by_kind.items()))


@dataclasses.dataclass(frozen=True)
class ChainLink:
    """What a fusion does with a collective that runs beside a chain of fusions (TPU).

    Attributes:
        chain: Number of the chain; the collective is repeated in each of its fusions.
        role: "start", "beside" or "done".
    """

    chain: str
    role: str


def chain_link(body: Sequence[Instruction], item: Instruction) -> ChainLink | None:
    """The place of a collective in its chain of fusions; None where it is in no chain.

    Args:
        body: The fused computation.
        item: A collective in it.
    """
    if not (match := _CHAIN.search(item.attributes)):
        return None
    ends = (_CHAIN_END.search(other.attributes) for other in body if other.opcode == "custom-call")
    end = next(filter(None, ends), None)
    return ChainLink(match[1], end[1].lower() if end else "beside")


def link_seconds(sent: int, devices: int, chip: Chip) -> float:
    """Lower bound of the time in which a device sends so many bytes, with its links full.

    In a ring over all devices (Patarasuk and Yuan 2009, section 3).
    """
    return sent * (devices - 1) / devices / chip.link_bandwidth


def network_bytes(program: Program, counts: dict[str, int], islands: int, devices: int) -> float:
    """Bytes that a device at least sends to other islands (TPU slices, GPU hosts) in a step.

    In rings over the islands, in which each device of an island carries its share.

    Args:
        program: A compiled step.
        counts: Its `hbm_traffic.trip_counts`, with those inside fusions.
        islands: Equal parts of all devices, in the order of the mesh.
        devices: Number of all devices.
    """
    if islands == 1:
        return 0.0
    total = 0.0
    for name, count in counts.items():
        for item in program.computations[name]:
            chain = chain_link(program.computations[name], item)
            if chain is None or chain.role == "start":
                size = devices // islands
                total += count * _instruction_network_bytes(program, item, islands, size)
    return total


def _instruction_network_bytes(
    program: Program, item: Instruction, islands: int, island_size: int
) -> float:
    """Bytes that one run of an instruction sends over the network."""
    if item.opcode == "send" and (match := _MEGASCALE.search(item.attributes)):
        share = (islands - 1) / islands
        shares = {
            "ALL_REDUCE": 2 * share,
            "ALL_GATHER": islands - 1,
            "REDUCE_SCATTER": share,
            "ALL_TO_ALL": share,
        }
        return shares.get(match[1], 1) * bytes_of(program.instructions[item.operands[0]].shape)
    kind = item.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return 0.0
    size, sent = volume(program, item)
    device_groups = _groups(item.attributes)
    island_groups = [{device // island_size for device in group} for group in device_groups]
    # Without groups, all devices take part.
    reached = max(map(len, island_groups), default=islands)
    if kind == "collective-permute":
        return size if reached > 1 else 0.0
    members = max(map(len, device_groups), default=islands * island_size)
    carriers = 1 if kind.endswith("all-to-all") else members / reached
    return sent * (reached - 1) / reached / carriers


def volume(program: Program, item: Instruction) -> tuple[int, int]:
    """A collective's input bytes of one device, and those that leave it in a ring of many."""
    kind = item.opcode.removesuffix("-start")
    size = sum(bytes_of(program.instructions[name].shape) for name in item.operands)
    gathered = item.bytes if item.opcode == kind else item.bytes - size
    return size, {"all-reduce": 2 * size, "all-gather": gathered}.get(kind, size)


def _groups(attributes: str) -> list[list[int]]:
    """The devices that exchange with each other: replica groups, or (source, target) pairs."""
    if match := _GROUPS.search(attributes):
        return [_numbers(group) for group in match[1].strip("{}").split("},{")]
    if match := _IOTA_GROUPS.search(attributes):
        shape, dims = _numbers(match[1]), _numbers(match[2])
        order = _numbers(match[3]) if match[3] else list(range(len(dims)))
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(shape).tolist()
    if match := _MESH_GROUPS.search(attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        axes = list(sizes)
        grouped = re.findall(r"'(\w+)'", match[2])
        order = [axes.index(name) for name in axes if name not in grouped]
        order += [axes.index(name) for name in grouped]
        ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values())).transpose(order)
        return ids.reshape(-1, math.prod(sizes[name] for name in grouped)).tolist()
    return []


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
