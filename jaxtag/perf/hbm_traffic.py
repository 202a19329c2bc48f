"""Counts the bytes that a compiled program moves to and from a device's main memory (HBM).

Counted from the program's text. XLA's own count (`cost_analysis`) takes the body of each loop
once, so that a scan over layers seems to cost one layer, and does not tell main memory from on-chip
memory, where the TPU compiler places much of what is used soon. Here loops count with their trip
counts, and arrays whose layout names another memory space (`S(1)`, VMEM) are free; copies between
the two are not.
"""

import re
from collections.abc import Iterator

from jaxtag.perf.hlo import CONTROL, FREE, SLICES, Instruction, Program, bytes_of, search

_ON_CHIP = re.compile(r"[a-z]\w*\[[\d,<=]*\]\{[^}]*S\([1-9]\d*\)[^}]*\}")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
# Calls that only tell the compiler where an array is placed.
_PLACEMENT_CALLS = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
# Instructions that return their operand, or all of it, without a copy.
_VIEWS = frozenset(("bitcast", "get-tuple-element", "tuple", "reshape"))


def trip_counts(program: Program, text: str, fused: bool = False) -> dict[str, int]:
    """How often a step runs each computation: the entry, loop bodies and (all) branches.

    Args:
        program: The parsed `text`.
        text: Of the compiled program.
        fused: Include the computations inside fusions.
    """
    followed = CONTROL | {"fusion"} if fused else CONTROL
    bounds = constants(text)
    counts: dict[str, int] = {}

    def visit(name: str, count: int) -> None:
        counts[name] = counts.get(name, 0) + count
        for instruction in program.computations[name]:
            if instruction.opcode not in followed:
                continue
            inner = count
            if instruction.opcode == "while":
                inner *= loop_trip_count(program, instruction, bounds)
            for called in instruction.called:
                visit(called, inner)

    visit(program.entry, 1)
    return counts


def constants(text: str) -> dict[str, int]:
    """The integer constants of a program, among which are the bounds of its loops."""
    return {name: int(value) for name, value in _CONSTANT.findall(text)}


def step_hbm_bytes(program: Program, counts: dict[str, int]) -> int:
    """Bytes that a step moves to and from a device's main memory.

    Args:
        program: A compiled step.
        counts: Its `trip_counts`, without those inside fusions.
    """
    return sum(
        count * hbm_bytes(program, instruction)
        for name, count in counts.items()
        for instruction in program.computations[name]
    )


def hbm_bytes(program: Program, instruction: Instruction) -> int:
    """Bytes that one run of an instruction at least reads from and writes to main memory.

    Of an operand that a fusion only slices, the slices count; of one that it updates in place, the
    update.
    """
    opcode = instruction.opcode
    if opcode in FREE or opcode in CONTROL or opcode.endswith("-done"):
        return 0
    if opcode == "custom-call" and _PLACEMENT_CALLS.search(instruction.attributes):
        return 0
    if opcode in ("copy-start", "slice-start"):  # an asynchronous copy: (to, from, …)
        return _copy_bytes(program, instruction)
    result = hbm_size(instruction.shape)
    if opcode in SLICES:
        return min(2 * result, _operand_bytes(program, instruction) + result)
    if opcode == "dynamic-update-slice":
        return 2 * hbm_size(program.instructions[instruction.operands[1]].shape)
    if opcode == "fusion":
        return _fusion_bytes(program, instruction)
    return _operand_bytes(program, instruction) + result


def hbm_size(shape: str) -> int:
    """Bytes of the arrays of a shape that lie in main memory."""
    return bytes_of(_ON_CHIP.sub("", shape))


def loop_trip_count(program: Program, loop: Instruction, bounds: dict[str, int]) -> int:
    """How often a loop runs: as XLA knows, else the constant its condition compares with.

    Args:
        program: A compiled program.
        loop: A `while` of it.
        bounds: Its `constants`.
    """
    if match := _TRIP_COUNT.search(loop.attributes):
        return int(match[1])
    condition = search(r"condition=%?([\w.\-]+)", loop.attributes)[1]
    compared = [bounds.get(item.name, 0) for item in program.computations[condition]]
    return max([*compared, 1])


def _operand_bytes(program: Program, instruction: Instruction) -> int:
    return sum(hbm_size(program.instructions[name].shape) for name in instruction.operands)


def _copy_bytes(program: Program, instruction: Instruction) -> int:
    """Each side of a copy that lies in main memory moves as many bytes as the result has."""
    arrays = re.findall(r"[a-z]\w*\[[\d,<=]*\](?:\{[^}]*\})?", instruction.shape)
    source = program.instructions[instruction.operands[0]].shape
    target = arrays[0] if instruction.opcode == "copy-start" else arrays[1]
    return sum(bytes_of(target) for side in (source, target) if hbm_size(side))


def _fusion_bytes(program: Program, instruction: Instruction) -> int:
    total = 0
    for number, name in enumerate(instruction.operands):
        if size := hbm_size(program.instructions[name].shape):
            total += min(size, sum(_use_bytes(program, instruction, number)))
    return total + _fusion_output_bytes(program, instruction)


def _use_bytes(program: Program, fusion: Instruction, number: int) -> Iterator[int]:
    """Bytes that each use of a fusion's operand reads of it."""
    body = program.computations[fusion.called[0]]
    pending = [
        item for item in body if item.opcode == "parameter" and item.parameter_number == number
    ]
    while pending:
        item = pending.pop()
        for user in (user for user in body if item.name in user.operands):
            is_first = user.operands[0] == item.name
            if user.opcode in _VIEWS:
                pending.append(user)
            elif user.opcode in SLICES and is_first:
                yield user.bytes
            elif user.opcode == "dynamic-update-slice" and is_first:
                yield 0
            elif user.opcode == "fusion":
                yield from _use_bytes(program, user, user.operands.index(item.name))
            else:
                yield item.bytes


def _fusion_output_bytes(program: Program, instruction: Instruction) -> int:
    """Bytes of a fusion's result; where it updates a larger array in place, of the update."""
    total = hbm_size(instruction.shape)
    body = program.computations[instruction.called[0]]
    for item in (item for item in body if item.opcode == "dynamic-update-slice"):
        size = hbm_size(item.shape)
        if size and size <= total:
            total -= size - program.instructions[item.operands[1]].bytes
    return total
