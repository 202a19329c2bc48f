"""Lowers and compiles the training step of a configuration for devices that are not there."""

import dataclasses
import re
import time

import jax

from jaxtag.config.schema import Config
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UserError
from jaxtag.perf import step_inputs
from jaxtag.perf.flops import jaxpr_macs
from jaxtag.training import run_data
from jaxtag.training.setup import TrainSetup

# XLA autotunes the tiles of its own GPU matmuls on a GPU, and gives up on odd shapes where there is
# none; cuBLAS takes any shape.
_GPU_OPTIONS: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}
_AMOUNT = r"([\d.]+)([KMGT]?)"
# "Used 17.5G of 15.75G hbm", "HLO temporaries (1.5T) exceeds available HBM (15.75G)"
_OUT_OF_MEMORY = (
    rf"(?:Used |HLO temporaries \(){_AMOUNT}(?: of |\) exceeds available HBM \(){_AMOUNT}"
)


class DoesNotFitError(Exception):
    """XLA found no way to run a program in a device's memory.

    Attributes:
        peak: Bytes that the program requires; None where XLA does not say.
        capacity: Bytes that the device has; None where XLA does not say.
    """

    def __init__(self, message: str):
        super().__init__(message)
        match = re.search(_OUT_OF_MEMORY, message)
        self.peak = _bytes(match[1], match[2]) if match else None
        self.capacity = _bytes(match[3], match[4]) if match else None


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A training step as JAX hands it to XLA.

    Attributes:
        setup: The planned run.
        program: The lowered step.
        flops: Of a step over all devices: two for each multiply-add of products and convolutions.
            Recomputation (remat) counts, elementwise operations do not.
        seconds: That tracing and lowering took.
    """

    setup: TrainSetup
    program: jax.stages.Lowered
    flops: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A training step as XLA compiled it, and the seconds that this took."""

    lowered: Lowered
    program: jax.stages.Compiled
    seconds: float


def resolve(config: Config) -> Config:
    """`config` with its automatic fields (None, "auto") as a run on an accelerator sets them."""
    model = config.model
    resolved = dataclasses.replace(
        model,
        dtype="bfloat16" if model.dtype == "auto" else model.dtype,
        scan=True if model.scan is None else model.scan,
    )
    return dataclasses.replace(config, model=resolved)


def plan(config: Config, num_outputs: int, devices: list[jax.Device]) -> TrainSetup:
    """What `jaxtag.train` would run on these devices; reads no data.

    Args:
        config: Of the run.
        num_outputs: Number of tokens, classes or tags.
        devices: To compile for.

    Raises:
        UserError: The configuration does not fit the devices.
    """
    axes = config.mesh
    mesh = meshes.make_mesh(axes.data, axes.fsdp, axes.tensor, devices=devices)
    config = resolve(config)
    task = run_data.task_class(config)(config, range(num_outputs))
    return TrainSetup.from_config(config, task, step_inputs.num_train_examples(config), mesh)


def lower(setup: TrainSetup) -> Lowered:
    """Lowers the step that `jaxtag.train` runs, for the devices of the setup's mesh."""
    start = time.perf_counter()
    traced = setup.step.trace(setup.shapes, step_inputs.batch_shapes(setup.task, setup.mesh))
    flops = 2 * jaxpr_macs(traced.jaxpr)
    return Lowered(setup, traced.lower(), flops, time.perf_counter() - start)


def compile_step(lowered: Lowered) -> Compiled:
    """Compiles a lowered step.

    Raises:
        DoesNotFitError: XLA says so.
        UserError: XLA fails otherwise.
    """
    start = time.perf_counter()
    platform = lowered.setup.mesh.devices.flat[0].platform
    options = _GPU_OPTIONS if platform in ("cuda", "gpu") else None
    try:
        program = lowered.program.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DoesNotFitError(str(error)) from error
        first_line = str(error).splitlines()[0]
        raise UserError(f"XLA cannot compile this step for these devices: {first_line}") from error
    return Compiled(lowered, program, time.perf_counter() - start)


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))
