"""Bytes that a compiled program moves to and from a device's main memory, counted from its text.

XLA's own count (`cost_analysis`) runs the body of each loop once, so that a scan over layers seems
to cost one layer, and does not tell main memory from the memory on the chip, where the TPU compiler
places much of what is used soon. Here the turns of loops are counted, and arrays whose layout names
another memory space (`S(1)`, VMEM) are free; what is copied there and back is not.
"""

import re
from collections.abc import Iterator

from jaxtag.perf.hlo import CONTROL, FREE, Instruction, Program, bytes_of

_ELSEWHERE = re.compile(r"[a-z]\w*\[[\d,<=]*\]\{[^}]*S\([1-9]\d*\)[^}]*\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_SLICES = frozenset(("slice", "dynamic-slice", "gather"))
# Calls that only say where an array is to lie.
_PLACES = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
# What gives its operand back, or all of it, without a copy.
_VIEWS = frozenset(("bitcast", "get-tuple-element", "tuple", "reshape"))


def trip_counts(program: Program, text: str, fused: bool = False) -> dict[str, int]:
    """How often a step runs each computation: of the entry, loops and branches (all of them).

    The turns of a loop are those that XLA knows, or the constant that its condition compares with.

    Args:
      fused: the computations inside of fusions too.
    """
    followed = CONTROL | {"fusion"} if fused else CONTROL
    constants = {name: int(value) for name, value in _CONSTANT.findall(text)}
    found: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        found[name] = found.get(name, 0) + times
        for instruction in program.computations[name]:
            if instruction.opcode not in followed:
                continue
            inner = times
            if instruction.opcode == "while":
                inner *= _trips(program, instruction, constants)
            for called in instruction.called:
                visit(called, inner)

    visit(program.entry, 1)
    return found


def hbm_bytes(program: Program, instruction: Instruction) -> int:
    """What one run of an instruction reads from main memory and writes there, at least.

    Of an operand that a fusion only slices the slices count, of one that it changes in place the
    change.
    """
    opcode = instruction.opcode
    if opcode in FREE or opcode in CONTROL or opcode.endswith("-done"):
        return 0
    if opcode == "custom-call" and _PLACES.search(instruction.attributes):
        return 0
    if opcode in ("copy-start", "slice-start"):  # a copy that runs beside others, (to, from, …)
        return _of_copy(program, instruction)
    if opcode in _SLICES:
        return min(
            2 * main(instruction.shape), _read(program, instruction) + main(instruction.shape)
        )
    if opcode == "dynamic-update-slice":
        return 2 * main(program.instructions[instruction.operands[1]].shape)
    if opcode == "fusion":
        return _of_fusion(program, instruction)
    return _read(program, instruction) + main(instruction.shape)


def main(shape: str) -> int:
    """Bytes of those arrays of a shape that lie in main memory."""
    return bytes_of(_ELSEWHERE.sub("", shape))


def _trips(program: Program, loop: Instruction, constants: dict[str, int]) -> int:
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)[1]
    bounds = [constants.get(item.name, 0) for item in program.computations[condition]]
    return max([*bounds, 1])


def _read(program: Program, instruction: Instruction) -> int:
    return sum(main(program.instructions[name].shape) for name in instruction.operands)


def _of_copy(program: Program, instruction: Instruction) -> int:
    """Each side of it that lies in main memory moves as much as the result has."""
    arrays = re.findall(r"[a-z]\w*\[[\d,<=]*\](?:\{[^}]*\})?", instruction.shape)
    source = program.instructions[instruction.operands[0]].shape
    target = arrays[0] if instruction.opcode == "copy-start" else arrays[1]
    return sum(bytes_of(target) for side in (source, target) if main(side))


def _of_fusion(program: Program, instruction: Instruction) -> int:
    total = 0
    for place, name in enumerate(instruction.operands):
        if whole := main(program.instructions[name].shape):
            total += min(whole, sum(_seen(program, instruction, place)))
    return total + _written(program, instruction)


def _seen(program: Program, fusion: Instruction, place: int) -> Iterator[int]:
    """What each use of a fusion's operand needs of it."""
    body = program.computations[fusion.called[0]]
    waiting = [item for item in body if item.opcode == "parameter" and item.number == place]
    while waiting:
        item = waiting.pop()
        for user in (user for user in body if item.name in user.operands):
            first = user.operands[0] == item.name
            if user.opcode in _VIEWS:
                waiting.append(user)
            elif user.opcode in _SLICES and first:
                yield user.bytes
            elif user.opcode == "dynamic-update-slice" and first:
                yield 0
            elif user.opcode == "fusion":
                yield from _seen(program, user, user.operands.index(item.name))
            else:
                yield item.bytes


def _written(program: Program, instruction: Instruction) -> int:
    """The result of a fusion; where it is a larger array changed in place, the change."""
    total = main(instruction.shape)
    body = program.computations[instruction.called[0]]
    for item in (item for item in body if item.opcode == "dynamic-update-slice"):
        if main(item.shape) and main(item.shape) <= total:
            total -= main(item.shape) - program.instructions[item.operands[1]].bytes
    return total
