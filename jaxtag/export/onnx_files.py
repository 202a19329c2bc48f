"""Writes programs as files of ONNX."""

import logging
from collections.abc import Sequence
from pathlib import Path

import onnx

from jaxtag.export import verify
from jaxtag.export.onnx_convert import to_onnx
from jaxtag.export.programs import Program

QUANTIZED = (
    "Weights are 8-bit integers and activations are quantized as the model runs (dynamic "
    "quantization of ONNX Runtime): scores differ from those of the float32 model."
)
_INSIDE_BYTES = 1 << 30  # up to which weights are in the file itself; protobuf ends at 2 GiB


def write(folder: Path, parts: Sequence[Program], quantize: bool = False) -> str:
    """Writes a file for each program, and compares it with jaxtag where ONNX Runtime is installed.

    Returns:
        what came of the comparison, for people.

    Raises:
        UserError: a program has no form in ONNX, or its file computes something else.
    """
    differences = []
    for program in parts:
        file = folder / f"{program.name}.onnx"
        model = to_onnx(program.function, program.inputs)
        _save(model, file)
        if verify.has_onnxruntime():
            differences.append(verify.check_onnx(program, file))
        if quantize:
            _quantize(file)
    if not differences:
        return "not compared with jaxtag: onnxruntime is not installed"
    return verify.describe(max(differences))


def _save(model: onnx.ModelProto, file: Path) -> None:
    """Weights that are too large for the file are in FILE.data, beside it."""
    outside = model.ByteSize() > _INSIDE_BYTES
    onnx.save_model(
        model,
        file,
        save_as_external_data=outside,
        location=f"{file.name}.data" if outside else None,
    )


def _quantize(file: Path) -> None:
    """Replaces a file by its dynamically quantized form."""
    from onnxruntime import quantization

    logging.getLogger().setLevel(logging.ERROR)
    quantized = file.with_suffix(".int8.onnx")
    quantization.quantize_dynamic(
        file, quantized, weight_type=quantization.QuantType.QInt8, per_channel=True
    )
    quantized.replace(file)
