"""What a compiled step costs: operations and bytes, of the whole program and of each kernel.

Floating-point operations (FLOPs) are counted twice: `xla` is XLA's own analysis of the optimised
program, which counts the body of a loop once and whatever the compiler added; `analytic` is two
for each multiply-add of the convolutions and matrix products of the forward and backward pass,
without recomputation, in the program as traced (`models.counting`). The first says what is run, the
second what the model asks for, and model FLOPs utilisation (MFU; Chowdhery et al. 2022, PaLM,
arXiv:2204.02311, appendix B) is made of it.
"""

import dataclasses
import math
import re
from typing import Any

from jaxtag.kernels.onednn import convolution
from jaxtag.perf import flops as counting
from jaxtag.perf.hlo import CONTROL, FREE, Instruction, Program
from jaxtag.training import setup as experiments
from jaxtag.training.setup import TrainSetup

# Opcodes with an operation for each element of the result.
_ARITHMETIC = frozenset(
    (
        *("abs", "add", "and", "atan2", "cbrt", "ceil", "clamp", "compare", "cosine", "divide"),
        *(
            "erf",
            "exponential",
            "exponential-minus-one",
            "floor",
            "log",
            "log-plus-one",
            "logistic",
        ),
        *("maximum", "minimum", "multiply", "negate", "or", "power", "remainder", "rsqrt"),
        *("round-nearest-even", "select", "sign", "sine", "sqrt", "subtract", "tan", "tanh", "xor"),
    )
)
_SLICES = frozenset(("slice", "dynamic-slice", "gather"))
_MULTIPLIES = frozenset(("dot", "convolution"))


def analytic_flops(experiment: TrainSetup, words: int, examples: int, batch: Any) -> int:
    """Of a step over all devices.

    Args:
      words: tokens, classes or tags, as `experiment.build` takes them.
      examples: of the training split.
      batch: shapes of a batch.
    """
    config = experiment.config
    if config.model.remat != "none":
        model = dataclasses.replace(config.model, remat="none")
        config = dataclasses.replace(config, model=model)
        experiment = experiments.build(config, words, examples, experiment.mesh)
    program = experiment.step.trace(experiment.shapes, batch).jaxpr
    return 2 * counting.multiply_adds(program)


def flops(program: Program, instruction: Instruction) -> int:
    """Of one run of a kernel, on one device.

    As XLA counts: two for a multiply-add of a product, one for each element of an elementwise
    operation or that a reduction takes in.
    """
    match instruction.opcode:
        case "dot":
            return _of_dot(program, instruction)
        case "convolution":
            return _of_convolution(program, instruction)
        case "custom-call":
            return _of_library(program, instruction)
        case "reduce" | "reduce-window":
            return _elements(program.instructions[instruction.operands[0]])
        case "fusion" | "call" | "map":
            bodies = (program.computations[name] for name in instruction.called)
            return sum(flops(program, inner) for body in bodies for inner in body)
    return _elements(instruction) if instruction.opcode in _ARITHMETIC else 0


def bytes_accessed(program: Program, instruction: Instruction) -> int:
    """Of one run of a kernel: what it reads and writes at least, on one device.

    Of an operand that a fusion only slices, the slices count.
    """
    if instruction.opcode in FREE or instruction.opcode in CONTROL - {"call"}:
        return 0
    if instruction.opcode in _SLICES:
        return 2 * instruction.bytes
    if instruction.opcode == "dynamic-update-slice":
        return 2 * program.instructions[instruction.operands[1]].bytes
    read = [_bytes(program, name) for name in instruction.operands]
    if instruction.opcode == "fusion":
        for place, sliced in _sliced(program.computations[instruction.called[0]]).items():
            read[place] = min(read[place], sliced)
    return sum(read) + instruction.bytes


def multiplies(program: Program, instruction: Instruction) -> bool:
    """Whether it is a matrix product or a convolution, or holds one."""
    if instruction.opcode == "fusion":
        bodies = (program.computations[name] for name in instruction.called)
        return any(multiplies(program, inner) for body in bodies for inner in body)
    return instruction.opcode in _MULTIPLIES or bool(_of_library(program, instruction))


def _sliced(body: list[Instruction]) -> dict[int, int]:
    """Number of a parameter that is only sliced → bytes of its slices."""
    found = {}
    for parameter in (item for item in body if item.opcode == "parameter"):
        users = [item for item in body if parameter.name in item.operands]
        if users and all(
            user.opcode in _SLICES and user.operands[0] == parameter.name for user in users
        ):
            found[parameter.number] = sum(user.bytes for user in users)
    return found


def _bytes(program: Program, name: str) -> int:
    return program.instructions[name].bytes if name in program.instructions else 0


def _elements(instruction: Instruction) -> int:
    return math.prod(instruction.dims)


def _of_dot(program: Program, instruction: Instruction) -> int:
    left = program.instructions[instruction.operands[0]].dims
    contracted = _listed("lhs_contracting_dims", instruction.attributes)
    return 2 * _elements(instruction) * math.prod(left[axis] for axis in contracted)


def _of_convolution(program: Program, instruction: Instruction) -> int:
    labels = re.search(r"dim_labels=\w+_(\w+)->\w+", instruction.attributes)[1]
    kernel = program.instructions[instruction.operands[1]].dims
    dilated = re.search(r"lhs_dilate=([\dx]+)", instruction.attributes)
    holes = math.prod(map(int, dilated[1].split("x"))) if dilated else 1
    taps = math.prod(kernel) // kernel[labels.index("o")]
    return 2 * _elements(instruction) * taps // holes


def _of_library(program: Program, instruction: Instruction) -> int:
    """Of a call of cuBLAS, cuDNN or oneDNN; 0 for others."""
    text = instruction.attributes
    if f'custom_call_target="{convolution.TARGET}"' in text:
        return convolution.Spec.parse(re.search(r'spec = "([^"]*)"', text)[1]).flops
    if "__cudnn$conv" in text and "dim_labels" in text:
        return _of_convolution(program, instruction)
    if "__cublas$" in text:
        left = program.instructions[instruction.operands[0]].dims
        found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', text)
        axes = [int(axis.strip('"')) for axis in found[1].split(",")] if found else []
        return 2 * _elements(instruction) * math.prod(left[axis] for axis in axes)
    return 0


def _listed(name: str, text: str) -> list[int]:
    found = re.search(rf"{name}={{([\d,]*)}}", text)
    return [int(axis) for axis in found[1].split(",") if axis] if found else []
