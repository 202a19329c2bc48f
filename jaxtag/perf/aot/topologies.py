"""Devices to compile for that this machine does not have, by the name of a topology.

`v5e:16x16` is a slice of 256 TPU v5e chips, `h100:8` eight GPUs of one host. JAX compiles for such
devices and can do nothing else with them (`jax.experimental.topologies`).
"""

import dataclasses
import math
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from jaxtag.errors import UsageError, UserError, did_you_mean
from jaxtag.perf.hardware import CHIPS, Chip

_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_GPU_COUNTS = ("1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "1024")
_GPUS_PER_HOST = 8
# The shapes of slices that Google Cloud offers, and numbers of GPUs.
SHAPES: dict[str, tuple[str, ...]] = {
    "v4": (*_3D, "8x8x12", "8x16x16"),
    "v5e": _2D,
    "v5p": (*_3D, "8x16x16", "16x16x16", "16x16x24"),
    "v6e": _2D,
    "a100": _GPU_COUNTS,
    "h100": _GPU_COUNTS,
    "h200": _GPU_COUNTS,
}


class _Gpu(NamedTuple):
    """An NVIDIA GPU in the terms of XLA's target description.

    Source: NVIDIA A100 and H100 white papers, table of the compute capabilities.

    Attributes:
        cores: Streaming multiprocessors.
        fpus_per_core: Float32 units of each.
        l2_cache: Bytes.
        shared_memory: Of a block, bytes.
    """

    compute_capability: str
    cores: int
    fpus_per_core: int
    clock_ghz: float
    l2_cache: int
    shared_memory: int


_GPUS = {
    "a100": _Gpu("8.0", 108, 64, 1.41, 41_943_040, 166_912),
    "h100": _Gpu("9.0", 132, 128, 1.98, 52_428_800, 232_448),
    "h200": _Gpu("9.0", 132, 128, 1.98, 52_428_800, 232_448),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of chips of one kind, connected in a shape.

    Attributes:
        name: As a user writes it, `v5e:16x16`.
        chip: The kind.
        shape: Of the slice; of GPUs, their number.
        slices: Number of these, connected by the data center network.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def size(self) -> int:
        """Number of devices."""
        return math.prod(self.shape) * self.slices

    @property
    def islands(self) -> int:
        """Number of parts that the data center network connects: slices, or hosts of GPUs."""
        hosts = 1 if self.chip.platform == "tpu" else -(-self.shape[0] // _GPUS_PER_HOST)
        return hosts * self.slices


def prepare_process() -> None:
    """Sets up a process that compiles for other hardware and computes nothing itself.

    To be called before JAX looks for devices. libtpu otherwise looks for a TPU, asks a server of
    Google's cloud about it, and lets one process in at a time; it reads the variables when it is
    loaded.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")


def parse(name: str, slices: int = 1) -> Topology:
    """The topology of a name such as `v5e:16x16`.

    Raises:
        UsageError: There is none; the message has the nearest name.
    """
    kind, _, shape = name.partition(":")
    if shape not in SHAPES.get(kind, ()):
        raise UsageError(f"--topology={name}: there is no such topology{_nearest(kind, shape)}")
    return Topology(name, CHIPS[kind], tuple(map(int, shape.split("x"))), slices)


def devices(topology: Topology) -> list[jax.Device]:
    """Devices that programs can be compiled for.

    Raises:
        UserError: The compiler of that platform is not installed.
    """
    platform = topology.chip.platform
    name, options = _tpu_options(topology) if platform == "tpu" else _gpu_options(topology)
    try:
        return list(topologies.get_topology_desc(name, platform, **options).devices)
    except Exception as error:  # its class depends on what is missing
        extra = {"tpu": "tpu", "cuda": "cuda"}[platform]
        raise UserError(
            f"--topology={topology.name}: there is no compiler for it, or it does not start "
            f'({str(error).splitlines()[0]}). It comes with: pip install "jaxtag[{extra}]"'
        ) from error


def _tpu_options(topology: Topology) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {"num_slices": topology.slices}
    if topology.name.startswith("v4"):
        options["chip_config_name"] = "megacore"  # a chip's two cores as one device
    if topology.shape == (1, 1):
        options["chips_per_host_bounds"] = [1, 1, 1]
    return topology.name, options


def _gpu_options(topology: Topology) -> tuple[str, dict[str, Any]]:
    kind, count = topology.name.split(":")[0], topology.shape[0]
    hosts = -(-count // _GPUS_PER_HOST)
    layout = f"{topology.slices}x{hosts}x{count // hosts}"
    return kind, {"target_config": target_config(kind), "topology": layout}


def target_config(kind: str) -> str:
    """A GPU as XLA's `GpuTargetConfigProto`, in text format."""
    chip, gpu = CHIPS[kind], _GPUS[kind]
    major, minor = gpu.compute_capability.split(".")
    extension = "ACCELERATED_FEATURES" if major == "9" else "NONE"
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus_per_core}
  clock_rate_ghz: {gpu.clock_ghz}
  memory_bandwidth: {int(chip.memory_bandwidth)}
  device_memory_size: {chip.memory_bytes}
  l2_cache_size: {gpu.l2_cache}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.shared_memory}
  shared_memory_per_core: {gpu.shared_memory + 1024}
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  name: "{chip.title}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.title}"
"""


def _nearest(kind: str, shape: str) -> str:
    """Of a known chip the shape with the nearest number of devices, else the nearest name."""
    names = {chip: [f"{chip}:{shape}" for shape in shapes] for chip, shapes in SHAPES.items()}
    if kind not in SHAPES or not re.fullmatch(r"\d+(x\d+)*", shape):
        candidates = names.get(kind) or [name for group in names.values() for name in group]
        return did_you_mean(f"{kind}:{shape}", candidates)
    sizes = {shape: math.prod(map(int, shape.split("x"))) for shape in (*SHAPES[kind], shape)}
    size = max(sizes[shape], 1)
    nearest = min(SHAPES[kind], key=lambda shape: abs(math.log(sizes[shape] / size)))
    return f" (the nearest is {kind}:{nearest})"
