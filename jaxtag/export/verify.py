"""Exported models against jaxtag's, on random inputs."""

import importlib.util
from pathlib import Path

import jax
import numpy as np

from jaxtag.errors import UsageError, UserError
from jaxtag.export.programs import Program
from jaxtag.kernels.implementations import default_forms

TOLERANCE = 1e-4  # of the largest value of an output, or of 1


def has_onnxruntime() -> bool:
    """Whether exported ONNX models can be run here."""
    return importlib.util.find_spec("onnxruntime") is not None


def require_onnx(*, runtime: bool) -> None:
    """Raises UsageError unless ONNX models can be written here and, with `runtime`, run."""
    for package in ("onnx", "onnxruntime") if runtime else ("onnx",):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"this needs {package}: pip install 'jaxtag[onnx]'")


def onnx_outputs(file: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes of named inputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def difference(program: Program, outputs: dict[str, np.ndarray], inputs: dict) -> float:
    """The largest difference from what jaxtag computes, relative to the largest value, or to 1."""
    with default_forms():
        expected = jax.jit(program.function)(**inputs)
    return max(
        float(np.abs(outputs[name] - np.asarray(value)).max() / max(1.0, np.abs(value).max()))
        for name, value in expected.items()
    )


def check_onnx(program: Program, file: Path) -> float:
    """`difference` of a file.

    Raises:
        UserError: it is more than `TOLERANCE`.
    """
    differences = []
    for arrays in program.example_inputs():
        inputs = {name: np.asarray(array) for name, array in arrays.items()}
        differences.append(difference(program, onnx_outputs(file, inputs), inputs))
    return _checked(max(differences), file)


def check_stablehlo(program: Program, file: Path) -> float:
    """The same, of a file of StableHLO."""
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    differences = []
    for inputs in program.example_inputs():
        outputs = exported.call(*inputs.values())
        outputs = {name: np.asarray(value) for name, value in outputs.items()}
        differences.append(difference(program, outputs, inputs))
    return _checked(max(differences), file)


def _checked(value: float, file: Path) -> float:
    if not value <= TOLERANCE:
        raise UserError(
            f"{file.name} computes something else than jaxtag, by {value:.2g} on random images: "
            "nothing is written"
        )
    return value


def describe(value: float) -> str:
    """The outcome of a comparison, for people."""
    return f"differs from jaxtag by at most {value:.1g} on random images"
