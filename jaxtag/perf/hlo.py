"""Reads the text of an XLA program (HLO): its instructions, where they come from, what they cost.

The text is what `jax.stages.Compiled.as_text()` and `Lowered.as_text("hlo", debug_info=True)` give.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+)(?: \(.*)? \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
# Instructions that move no data and compute nothing.
FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
        *("partition-id", "fusion-done"),
    )
)
# Instructions whose time is that of the computations they run.
CONTROL = frozenset(("while", "conditional", "call", "async-start", "async-done"))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      shape: of its result, as the text has it, such as `f32[8,31,31,64]{3,2,1,0}`.
      operands: their names.
      number: of a parameter; else 0.
      called: names of the computations that it runs or applies.
      op_name: JAX's path of named scopes and the primitive; "" where there is none.
      frame: number of the innermost frame of its traceback; 0 where there is none.
      attributes: the text behind the operands.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    number: int
    called: tuple[str, ...]
    op_name: str
    frame: int
    attributes: str

    @property
    def bytes(self) -> int:
        """Of its result."""
        return bytes_of(self.shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """Of its result, the first array of a tuple."""
        return _dims(self.shape)


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed HLO module.

    Attributes:
      entry: name of the computation that is run.
      computations: by name, in the order of the text (of an optimised program: its schedule).
      instructions: all of them by name.
      frames: number → ((file, line, function), number of the caller's frame or 0).
    """

    entry: str
    computations: dict[str, list[Instruction]]
    instructions: dict[str, Instruction]
    frames: dict[int, tuple[tuple[str, int, str], int]]

    def traceback(self, instruction: Instruction) -> Iterator[tuple[str, int, str]]:
        """(file, line, function) of the Python code that made it, innermost first."""
        number = instruction.frame
        while number in self.frames:
            where, number = self.frames[number]
            yield where

    def run(self) -> Iterator[Instruction]:
        """The instructions that are kernels or control them: of the entry, loops and branches."""
        waiting, seen = [self.entry], set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for instruction in self.computations[name]:
                yield instruction
                if instruction.opcode in CONTROL:
                    waiting += instruction.called


def parse(text: str) -> Program:
    """Reads the text of a module."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            if current is not None:
                current.append(_instruction(found[2], found[3]))
        elif (found := _COMPUTATION.match(line)) and not line.startswith("HloModule"):
            current = computations.setdefault(found[2], [])
            if found[1]:
                entry = found[2]
    instructions = {item.name: item for body in computations.values() for item in body}
    return Program(entry, computations, instructions, _frames(text))


def bytes_of(shape: str) -> int:
    """Of an array or of all arrays of a tuple."""
    total = 0
    for kind, dims in _ARRAY.findall(shape):
        bits = _BITS.get(kind)
        if bits is None:
            width = re.search(r"\d+", kind)
            bits = int(width[0]) if width else 0
        total += bits * math.prod(_numbers(dims)) / 8
    return math.ceil(total)


def _instruction(name: str, text: str) -> Instruction:
    shape, rest = _shape(text)
    opcode, _, rest = rest.partition("(")
    opcode = opcode.strip()
    if opcode == "fusion-start":  # one that runs beside others: (operands, result, …)
        opcode, shape = "fusion", _second(shape)
    inside, attributes = _parenthesis(rest)
    called = [name.strip("% ") for found in _CALLED.findall(attributes) for name in _split(found)]
    op_name, frame = _OP_NAME.search(attributes), _FRAME.search(attributes)
    return Instruction(
        name=name,
        opcode=opcode,
        shape=shape,
        operands=tuple(_NAME.findall(inside)),
        number=int(inside) if opcode == "parameter" else 0,
        called=tuple(called),
        op_name=op_name[1].replace("\\'", "'") if op_name else "",
        frame=int(frame[1]) if frame else 0,
        attributes=attributes,
    )


def _shape(text: str) -> tuple[str, str]:
    """The shape at the start of `text`, and the rest."""
    if text.startswith("("):
        inside, rest = _parenthesis(text[1:])
        return f"({inside})", rest
    shape, _, rest = text.partition(" ")
    return shape, rest


def _second(shape: str) -> str:
    """Of a tuple whose first part is a tuple."""
    _, rest = _parenthesis(shape.removeprefix("(("))
    rest = rest.removeprefix(", ")
    if rest.startswith("("):
        return _shape(rest)[0]
    return re.match(r"[^\[]*\[[^\]]*\](\{[^}]*\})?", rest)[0]


def _parenthesis(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes, and behind it."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return text[: found.start()], text[found.end() :]
    return text, ""


def _split(names: str) -> list[str]:
    return names.strip("{}").split(",")


def _dims(shape: str) -> tuple[int, ...]:
    found = _ARRAY.search(shape)
    return _numbers(found[2]) if found else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number.lstrip("<=")) for number in text.split(",") if number)


def _frames(text: str) -> dict[int, tuple[tuple[str, int, str], int]]:
    """The tables of files, functions, lines and frames at the head of the text."""

    def table(title: str) -> dict[int, str]:
        found = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.M)
        lines = found[1].splitlines() if found else []
        return {int(number): rest for number, _, rest in (line.partition(" ") for line in lines)}

    def field(name: str, line: str) -> int:
        return int(re.search(rf"{name}=(\d+)", line)[1])

    files = {number: name.strip('"') for number, name in table("FileNames").items()}
    functions = {number: name.strip('"') for number, name in table("FunctionNames").items()}
    places = {
        number: (
            files[field("file_name_id", line)],
            field("line", line),
            functions[field("function_name_id", line)],
        )
        for number, line in table("FileLocations").items()
    }
    frames = {
        number: (places[field("file_location_id", line)], field("parent_frame_id", line))
        for number, line in table("StackFrames").items()
    }
    # XLA prints the caller's number plus one, so that 1 is none (a frame never calls itself).
    shift = 1 if 1 in frames and frames[1][1] == 1 else 0
    return {number: (place, caller - shift) for number, (place, caller) in frames.items()}
