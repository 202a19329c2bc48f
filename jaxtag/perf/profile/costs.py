"""FLOPs and bytes of a compiled step: of the whole program and of each kernel.

FLOPs are counted twice. `xla` is XLA's own analysis of the optimized program, which counts the body
of a loop once, and whatever the compiler added. `analytic` is two for each multiply-add of the
convolutions and matrix products of the forward and backward pass, without recomputation, in the
program as traced (`perf.flops`). The first says what runs, the second what the model requires;
model FLOPs utilization (MFU; Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B) is made of
the second.
"""

import dataclasses
import functools
import math
import re
from typing import Any

import numpy as np

from jaxtag.kernels.onednn import convolution
from jaxtag.perf.flops import jaxpr_macs
from jaxtag.perf.hlo import CONTROL, FREE, SLICES, Instruction, Program, search
from jaxtag.training.setup import TrainSetup

# Opcodes with an operation for each element of the result.
_ELEMENTWISE = frozenset(
    (
        *("abs", "add", "and", "atan2", "cbrt", "ceil", "clamp", "compare", "cosine", "divide"),
        *("erf", "exponential", "exponential-minus-one", "floor", "log", "log-plus-one"),
        *("logistic", "maximum", "minimum", "multiply", "negate", "or", "power", "remainder"),
        *("round-nearest-even", "rsqrt", "select", "sign", "sine", "sqrt", "subtract", "tan"),
        *("tanh", "xor"),
    )
)
_MATMULS = frozenset(("dot", "convolution"))


def analytic_flops(setup: TrainSetup, num_examples: int, batch: Any) -> int:
    """FLOPs that a step requires, over all devices; recomputation (remat) does not count.

    Args:
        setup: The run.
        num_examples: Of the training split.
        batch: Shapes of a batch.
    """
    config = setup.config
    if config.model.remat != "none":
        model = dataclasses.replace(config.model, remat="none")
        config = dataclasses.replace(config, model=model)
        task = type(setup.task)(config, setup.task.vocabulary)
        setup = TrainSetup.from_config(config, task, num_examples, setup.mesh)
    return 2 * jaxpr_macs(setup.step.trace(setup.shapes, batch).jaxpr)


def flops(program: Program, instruction: Instruction) -> int:
    """FLOPs of one run of a kernel, on one device.

    Counted as XLA does: two for a multiply-add of a product, one for each element of an elementwise
    operation, one for each element that a reduction takes in.
    """
    match instruction.opcode:
        case "dot":
            return _dot_flops(program, instruction)
        case "convolution":
            return _convolution_flops(program, instruction)
        case "custom-call":
            return _library_flops(program, instruction)
        case "reduce" | "reduce-window":
            return _size(program.instructions[instruction.operands[0]])
        case "fusion" | "call" | "map":
            bodies = (program.computations[name] for name in instruction.called)
            return sum(flops(program, inner) for body in bodies for inner in body)
    return _size(instruction) if instruction.opcode in _ELEMENTWISE else 0


def bytes_accessed(program: Program, instruction: Instruction) -> int:
    """Bytes that one run of a kernel at least reads and writes, on one device.

    Of an operand that a fusion only slices, the slices count.
    """
    if instruction.opcode in FREE or instruction.opcode in CONTROL - {"call"}:
        return 0
    if instruction.opcode in SLICES:
        return 2 * instruction.bytes
    if instruction.opcode == "dynamic-update-slice":
        return 2 * program.instructions[instruction.operands[1]].bytes
    reads = [_operand_bytes(program, name) for name in instruction.operands]
    if instruction.opcode == "fusion":
        slices = _sliced_parameters(program.computations[instruction.called[0]])
        for number, size in slices.items():
            reads[number] = min(reads[number], size)
    return sum(reads) + instruction.bytes


def is_matmul(program: Program, instruction: Instruction) -> bool:
    """Whether it is a matrix product or a convolution, or contains one."""
    if instruction.opcode == "fusion":
        bodies = (program.computations[name] for name in instruction.called)
        return any(is_matmul(program, inner) for body in bodies for inner in body)
    return instruction.opcode in _MATMULS or bool(_library_flops(program, instruction))


def _sliced_parameters(body: list[Instruction]) -> dict[int, int]:
    """Number of each parameter that is only sliced -> bytes of its slices."""
    sizes = {}
    for parameter in (item for item in body if item.opcode == "parameter"):
        users = [item for item in body if parameter.name in item.operands]
        if users and all(
            user.opcode in SLICES and user.operands[0] == parameter.name for user in users
        ):
            sizes[parameter.parameter_number] = sum(user.bytes for user in users)
    return sizes


def _operand_bytes(program: Program, name: str) -> int:
    return program.instructions[name].bytes if name in program.instructions else 0


def _size(instruction: Instruction) -> int:
    """Elements of the result."""
    return math.prod(instruction.dims)


def _dot_flops(program: Program, instruction: Instruction) -> int:
    left = program.instructions[instruction.operands[0]].dims
    match = re.search(r"lhs_contracting_dims={([\d,]*)}", instruction.attributes)
    contracted = [int(axis) for axis in match[1].split(",") if axis] if match else []
    return 2 * _size(instruction) * math.prod(left[axis] for axis in contracted)


def _convolution_flops(program: Program, instruction: Instruction) -> int:
    """Two for each multiply-add on an element: padding and holes of a dilation do not count.

    XLA for TPUs writes batched products as convolutions that lie on padding for the most part.
    """
    labels = search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    images, kernel = (program.instructions[name].dims for name in instruction.operands[:2])
    result = dict(zip(labels[3], instruction.dims, strict=True))
    inputs = dict(zip(labels[1], images, strict=True))
    window = {
        name: [
            tuple(map(int, pair.split("_"))) if "_" in pair else int(pair)
            for pair in values.split("x")
        ]
        for name, values in re.findall(r"(\w+)=([\d_x-]+)", _window_text(instruction.attributes))
    }
    macs = result["b"] * result["f"] * kernel[labels[2].index("i")]
    for index, axis in enumerate(sorted(set(labels[3]) - set("bf"))):
        size = window["size"][index]
        macs *= _taps_on_elements(
            inputs[axis],
            result[axis],
            size,
            stride=_of_axis(window, "stride", index, 1),
            pad=_of_axis(window, "pad", index, (0, 0))[0],
            input_dilation=_of_axis(window, "lhs_dilate", index, 1),
            kernel_dilation=_of_axis(window, "rhs_dilate", index, 1),
        )
    return 2 * macs


def _window_text(attributes: str) -> str:
    match = re.search(r"window=\{([^}]*)\}", attributes)
    return match[1] if match else ""


def _of_axis(window: dict[str, list[Any]], name: str, index: int, default: Any) -> Any:
    return window[name][index] if name in window else default


@functools.cache
def _taps_on_elements(
    size: int,
    outputs: int,
    taps: int,
    *,
    stride: int,
    pad: int,
    input_dilation: int,
    kernel_dilation: int,
) -> int:
    """Pairs of an output and a tap, along one axis, where the tap lies on an element."""
    places = np.arange(outputs)[:, None] * stride + np.arange(taps) * kernel_dilation - pad
    inside = (places >= 0) & (places <= (size - 1) * input_dilation)
    return int((inside & (places % input_dilation == 0)).sum())


def _library_flops(program: Program, instruction: Instruction) -> int:
    """FLOPs of a call of cuBLAS, cuDNN or oneDNN; 0 for other calls."""
    text = instruction.attributes
    if f'custom_call_target="{convolution.TARGET}"' in text:
        return convolution.Spec.parse(search(r'spec = "([^"]*)"', text)[1]).flops
    if "__cudnn$conv" in text and "dim_labels" in text:
        return _convolution_flops(program, instruction)
    if "__cublas$" in text:
        left = program.instructions[instruction.operands[0]].dims
        match = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', text)
        axes = [int(axis.strip('"')) for axis in match[1].split(",")] if match else []
        return 2 * _size(instruction) * math.prod(left[axis] for axis in axes)
    return 0
