"""Programs as StableHLO: one file for several platforms, which `jax.export.deserialize` opens."""

import importlib.util
from collections.abc import Sequence

import jax

from jaxtag.errors import UsageError, UserError, did_you_mean
from jaxtag.export.programs import Program
from jaxtag.kernels.implementations import default_forms

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_MAX_BYTES = (1 << 31) - 1  # of a FlatBuffer


def check(platforms: Sequence[str]) -> None:
    """Raises UsageError where a platform is unknown, or the package that writes is missing."""
    for platform in platforms:
        if platform not in PLATFORMS:
            hint = did_you_mean(platform, PLATFORMS)
            raise UsageError(f"--platforms={platform}: must be of {', '.join(PLATFORMS)}{hint}")
    if importlib.util.find_spec("flatbuffers") is None:
        raise UsageError("--format=stablehlo needs flatbuffers: pip install 'jaxtag[stablehlo]'")


def serialize(program: Program, platforms: Sequence[str]) -> bytes:
    """The program with its weights for any of the platforms, in the default form of each kernel.

    It takes its inputs in order and returns a dictionary of its outputs.

    Raises:
        UserError: the weights are more than a file can hold.
    """
    names = list(program.inputs)

    def positional(*arrays: jax.Array) -> dict[str, jax.Array]:
        return program.function(**dict(zip(names, arrays, strict=True)))

    with default_forms():
        exported = jax.export.export(jax.jit(positional), platforms=platforms)(
            *program.inputs.values()
        )
    if len(exported.mlir_module_serialized) > _MAX_BYTES:
        raise UserError("the model has more than 2 GiB, which StableHLO cannot hold: take onnx")
    return bytes(exported.serialize())
