"""Devices of hardware that is not there, by the name of a topology.

`v5e:16x16` is a slice of 256 TPU v5e chips, `h100:8` eight GPUs of one host. JAX compiles for such
devices and can do nothing else with them (`jax.experimental.topologies`).
"""

import dataclasses
import math
import re
from typing import Any

import jax
from jax.experimental import topologies

from jaxtag.errors import UsageError, UserError, did_you_mean
from jaxtag.perf.hardware import CHIPS, Chip

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_HOSTS = ("1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "1024")
_GPUS_OF_A_HOST = 8
# The shapes that Google Cloud lends, and numbers of GPUs.
SHAPES: dict[str, tuple[str, ...]] = {
    "v4": (*_SOLID, "8x8x12", "8x16x16"),
    "v5e": _FLAT,
    "v5p": (*_SOLID, "8x16x16", "16x16x16", "16x16x24"),
    "v6e": _FLAT,
    "a100": _HOSTS,
    "h100": _HOSTS,
    "h200": _HOSTS,
}
# Of NVIDIA's GPUs, as XLA's target description wants them (NVIDIA A100 and H100 white papers, table
# of the compute capabilities): capability, multiprocessors, float32 units of each, clock in GHz,
# level-2 cache and shared memory of a block, bytes.
_GPUS: dict[str, tuple[str, int, int, float, int, int]] = {
    "a100": ("8.0", 108, 64, 1.41, 41_943_040, 166_912),
    "h100": ("9.0", 132, 128, 1.98, 52_428_800, 232_448),
    "h200": ("9.0", 132, 128, 1.98, 52_428_800, 232_448),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips of a kind, connected in a shape.

    Attributes:
      name: as a user gives it, `v5e:16x16`.
      slices: how many of these, connected by the data centre's network.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def size(self) -> int:
        """How many devices."""
        return math.prod(self.shape) * self.slices

    @property
    def islands(self) -> int:
        """Parts between which there is the data centre's network: slices, or hosts of GPUs."""
        hosts = 1 if self.chip.platform == "tpu" else -(-self.shape[0] // _GPUS_OF_A_HOST)
        return hosts * self.slices


def parse(name: str, slices: int = 1) -> Topology:
    """The topology of a name. Raises UsageError, with the nearest name, where there is none."""
    kind, _, shape = name.partition(":")
    if shape not in SHAPES.get(kind, ()):
        raise UsageError(f"--topology={name}: there is no such topology{_nearest(kind, shape)}")
    return Topology(name, CHIPS[kind], tuple(map(int, shape.split("x"))), slices)


def devices(topology: Topology) -> list[jax.Device]:
    """Devices that programs can be compiled for.

    Raises UserError where the compiler of that platform is not installed.
    """
    platform = topology.chip.platform
    name, options = _tpu(topology) if platform == "tpu" else _gpu(topology)
    try:
        return list(topologies.get_topology_desc(name, platform, **options).devices)
    except Exception as error:  # of many kinds, by what is missing
        extra = {"tpu": "tpu", "cuda": "cuda"}[platform]
        raise UserError(
            f"--topology={topology.name}: there is no compiler for it, or it does not start "
            f'({str(error).splitlines()[0]}). It comes with: pip install "jaxtag[{extra}]"'
        ) from error


def _tpu(topology: Topology) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {"num_slices": topology.slices}
    if topology.name.startswith("v4"):
        options["chip_config_name"] = "megacore"  # a chip's two cores as one device
    if topology.shape == (1, 1):
        options["chips_per_host_bounds"] = [1, 1, 1]
    return topology.name, options


def _gpu(topology: Topology) -> tuple[str, dict[str, Any]]:
    kind, count = topology.name.split(":")[0], topology.shape[0]
    hosts = -(-count // _GPUS_OF_A_HOST)
    layout = f"{topology.slices}x{hosts}x{count // hosts}"
    return kind, {"target_config": target_config(kind), "topology": layout}


def target_config(kind: str) -> str:
    """A GPU as XLA's `GpuTargetConfigProto`, in its text form."""
    chip = CHIPS[kind]
    capability, cores, units, clock, cache, shared = _GPUS[kind]
    major, minor = capability.split(".")
    extension = "ACCELERATED_FEATURES" if major == "9" else "NONE"
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  core_count: {cores}
  fpus_per_core: {units}
  clock_rate_ghz: {clock}
  memory_bandwidth: {int(chip.memory_bandwidth)}
  device_memory_size: {chip.memory_bytes}
  l2_cache_size: {cache}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared}
  shared_memory_per_core: {shared + 1024}
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
    names = {known: [f"{known}:{shape}" for shape in shapes] for known, shapes in SHAPES.items()}
    if kind not in SHAPES or not re.fullmatch(r"\d+(x\d+)*", shape):
        known = names.get(kind) or [name for some in names.values() for name in some]
        return did_you_mean(f"{kind}:{shape}", known)
    wanted = math.prod(map(int, shape.split("x")))
    sizes = {shape: math.prod(map(int, shape.split("x"))) for shape in SHAPES[kind]}
    close = min(sizes, key=lambda known: abs(math.log(sizes[known] / max(wanted, 1))))
    return f" (the nearest is {kind}:{close})"
