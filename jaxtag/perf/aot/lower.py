"""The training step of a configuration, compiled for devices that are not there."""

import dataclasses
import re
import time

import jax
import numpy as np
from jax.sharding import Mesh

from jaxtag.config.schema import Config
from jaxtag.datasets import published_sizes
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UserError
from jaxtag.perf import flops as counting
from jaxtag.tasks import TASKS
from jaxtag.training import setup as experiments
from jaxtag.training.setup import TrainSetup

# XLA chooses the tiles of its own products for GPUs by trying them on one, and gives up on odd
# shapes where it has none; cuBLAS takes any.
_FOR_GPUS = {"xla_gpu_enable_triton_gemm": False}
_AMOUNT = r"([\d.]+)([KMGT]?)"
# "Used 17.5G of 15.75G hbm", "HLO temporaries (1.5T) exceeds available HBM (15.75G)"
_OUT_OF_MEMORY = (
    rf"(?:Used |HLO temporaries \(){_AMOUNT}(?: of |\) exceeds available HBM \(){_AMOUNT}"
)


class DoesNotFit(Exception):
    """XLA found no way to run a program in a device's memory.

    Attributes:
      peak, capacity: bytes of the memory that it would take and that there is; None where XLA does
        not say.
    """

    def __init__(self, message: str):
        super().__init__(message)
        said = re.search(_OUT_OF_MEMORY, message)
        self.peak = _bytes(said[1], said[2]) if said else None
        self.capacity = _bytes(said[3], said[4]) if said else None


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A training step as JAX hands it to XLA.

    Attributes:
      flops: of a step over all devices: two for each multiply-add of products and convolutions.
        What is computed again (remat) is counted again, elementwise operations are not counted.
      seconds: that tracing and lowering took.
    """

    experiment: TrainSetup
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
    """`config` with what a run on an accelerator decides by itself (None, "auto") decided so."""
    model = config.model
    decided = dataclasses.replace(
        model,
        dtype="bfloat16" if model.dtype == "auto" else model.dtype,
        scan=True if model.scan is None else model.scan,
    )
    return dataclasses.replace(config, model=decided)


def plan(config: Config, words: int, devices: list[jax.Device]) -> TrainSetup:
    """What `jaxtag.train` would run on these devices; touches no data.

    Args:
      words: how many tokens, classes or tags there are.

    Raises UserError where the configuration does not fit the devices.
    """
    layout = config.mesh
    mesh = meshes.make_mesh(layout.data, layout.fsdp, layout.tensor, devices=devices)
    return experiments.build(resolve(config), words, published_sizes.examples(config), mesh)


def batch_of(config: Config, words: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """A training batch as the pipeline gives it: shapes, dtypes and places alone."""
    example = TASKS[config.task].example(config, range(words), train=True)
    size = example.image.size
    rows = {
        "image": np.zeros((size, size, 3), np.uint8),
        "mask": np.zeros((), np.float32),
        "broken": np.zeros((), bool),
        "index": np.zeros((), np.int32),
        "epoch": np.zeros((), np.int32),
        **{name: field.empty for name, field in example.fields.items()},
    }
    place = meshes.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((config.batch_size, *row.shape), row.dtype, sharding=place)
        for name, row in rows.items()
    }


def lower(experiment: TrainSetup, words: int) -> Lowered:
    """The step that `jaxtag.train` runs, for the devices of the experiment's mesh."""
    began = time.perf_counter()
    batch = batch_of(experiment.config, words, experiment.mesh)
    traced = experiment.step.trace(experiment.shapes, batch)
    flops = 2 * counting.multiply_adds(traced.jaxpr)
    return Lowered(experiment, traced.lower(), flops, time.perf_counter() - began)


def compile_step(lowered: Lowered) -> Compiled:
    """Compiles it. Raises DoesNotFit where XLA says so, UserError where XLA fails."""
    began = time.perf_counter()
    platform = lowered.experiment.mesh.devices.flat[0].platform
    options = _FOR_GPUS if platform in ("cuda", "gpu") else None
    try:
        program = lowered.program.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DoesNotFit(str(error)) from error
        first = str(error).splitlines()[0]
        raise UserError(f"XLA cannot compile this step for these devices: {first}") from error
    return Compiled(lowered, program, time.perf_counter() - began)


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))
