"""Parses HLO text: the instructions of an XLA program, their shapes and source locations.

The text is that of `jax.stages.Compiled.as_text()` and `Lowered.as_text("hlo", debug_info=True)`.
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
# Instructions whose time is that of the computations they call.
CONTROL = frozenset(("while", "conditional", "call", "async-start", "async-done"))
# Instructions that read a part of their first operand.
SLICES = frozenset(("slice", "dynamic-slice", "gather"))

SourceLocation = tuple[str, int, str]  # (file, line, function)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One HLO instruction.

    Attributes:
        shape: Of its result, as the text has it, such as `f32[8,31,31,64]{3,2,1,0}`.
        operands: Names of the operands.
        parameter_number: Of a parameter; 0 for other instructions.
        called: Names of the computations that it calls or applies.
        op_name: JAX's path of named scopes and the primitive; "" where there is none.
        frame: Number of the innermost stack frame of its traceback; 0 where there is none.
        attributes: The text behind the operands.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    parameter_number: int
    called: tuple[str, ...]
    op_name: str
    frame: int
    attributes: str

    @property
    def bytes(self) -> int:
        """Size of the result."""
        return bytes_of(self.shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions of the result, of the first array of a tuple."""
        return _dims(self.shape)


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed HLO module.

    Attributes:
        entry: Name of the entry computation.
        computations: Name -> instructions in the order of the text (of an optimized program: its
            schedule).
        instructions: All instructions by name.
        frames: Frame number -> (source location, number of the caller's frame or 0).
    """

    entry: str
    computations: dict[str, list[Instruction]]
    instructions: dict[str, Instruction]
    frames: dict[int, tuple[SourceLocation, int]]

    def traceback(self, instruction: Instruction) -> Iterator[SourceLocation]:
        """Locations of the Python code that made an instruction, innermost first."""
        number = instruction.frame
        while number in self.frames:
            location, number = self.frames[number]
            yield location

    def executed(self) -> Iterator[Instruction]:
        """The instructions of the entry, loops and branches: kernels, and what controls them."""
        pending, visited = [self.entry], set()
        while pending:
            name = pending.pop()
            if name in visited:
                continue
            visited.add(name)
            for instruction in self.computations[name]:
                yield instruction
                if instruction.opcode in CONTROL:
                    pending += instruction.called


def parse(text: str) -> Program:
    """Parses the text of an HLO module."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            if current is not None:
                current.append(_instruction(match[2], match[3]))
        elif (match := _COMPUTATION.match(line)) and not line.startswith("HloModule"):
            current = computations.setdefault(match[2], [])
            if match[1]:
                entry = match[2]
    instructions = {item.name: item for body in computations.values() for item in body}
    return Program(entry, computations, instructions, _frames(text))


def bytes_of(shape: str) -> int:
    """Size of an array, or of all arrays of a tuple."""
    total = 0.0
    for kind, dims in _ARRAY.findall(shape):
        bits = _BITS.get(kind)
        if bits is None:
            width = re.search(r"\d+", kind)
            bits = int(width[0]) if width else 0
        total += bits * math.prod(_numbers(dims)) / 8
    return math.ceil(total)


def search(pattern: str, text: str) -> re.Match[str]:
    """The first match of a pattern that HLO text is bound to hold.

    Raises:
        ValueError: It does not; another version of XLA writes other text.
    """
    if (match := re.search(pattern, text)) is None:
        raise ValueError(f"HLO text without {pattern!r}: {text[:200]}")
    return match


def _instruction(name: str, text: str) -> Instruction:
    shape, rest = _split_shape(text)
    opcode, _, rest = rest.partition("(")
    opcode = opcode.strip()
    if opcode == "fusion-start":  # an asynchronous fusion: (operands, result, …)
        opcode, shape = "fusion", _second_element(shape)
    operands, attributes = _split_parenthesis(rest)
    called = [
        name.strip("% ") for names in _CALLED.findall(attributes) for name in _split_names(names)
    ]
    op_name, frame = _OP_NAME.search(attributes), _FRAME.search(attributes)
    return Instruction(
        name=name,
        opcode=opcode,
        shape=shape,
        operands=tuple(_NAME.findall(operands)),
        parameter_number=int(operands) if opcode == "parameter" else 0,
        called=tuple(called),
        op_name=op_name[1].replace("\\'", "'") if op_name else "",
        frame=int(frame[1]) if frame else 0,
        attributes=attributes,
    )


def _split_shape(text: str) -> tuple[str, str]:
    """The shape at the start of `text`, and the rest."""
    if text.startswith("("):
        inside, rest = _split_parenthesis(text[1:])
        return f"({inside})", rest
    shape, _, rest = text.partition(" ")
    return shape, rest


def _second_element(shape: str) -> str:
    """The second element of a tuple shape whose first element is a tuple."""
    _, rest = _split_parenthesis(shape.removeprefix("(("))
    rest = rest.removeprefix(", ")
    if rest.startswith("("):
        return _split_shape(rest)[0]
    return search(r"^[^\[]*\[[^\]]*\](\{[^}]*\})?", rest)[0]


def _split_parenthesis(text: str) -> tuple[str, str]:
    """Text before and behind the parenthesis that closes the one before `text`."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return text[: match.start()], text[match.end() :]
    return text, ""


def _split_names(names: str) -> list[str]:
    return names.strip("{}").split(",")


def _dims(shape: str) -> tuple[int, ...]:
    match = _ARRAY.search(shape)
    return _numbers(match[2]) if match else ()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number.lstrip("<=")) for number in text.split(",") if number)


def _frames(text: str) -> dict[int, tuple[SourceLocation, int]]:
    """Reads the tables of files, functions, lines and stack frames at the head of the text."""

    def table(title: str) -> dict[int, str]:
        match = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.M)
        lines = match[1].splitlines() if match else []
        return {int(number): rest for number, _, rest in (line.partition(" ") for line in lines)}

    def field(name: str, line: str) -> int:
        return int(search(rf"{name}=(\d+)", line)[1])

    files = {number: name.strip('"') for number, name in table("FileNames").items()}
    functions = {number: name.strip('"') for number, name in table("FunctionNames").items()}
    locations = {
        number: (
            files[field("file_name_id", line)],
            field("line", line),
            functions[field("function_name_id", line)],
        )
        for number, line in table("FileLocations").items()
    }
    frames = {
        number: (locations[field("file_location_id", line)], field("parent_frame_id", line))
        for number, line in table("StackFrames").items()
    }
    # XLA writes the caller's number plus one, so that 1 means none (a frame never calls itself).
    shift = 1 if 1 in frames and frames[1][1] == 1 else 0
    return {number: (location, caller - shift) for number, (location, caller) in frames.items()}
