"""Peak rates of accelerators: by their makers' data sheets, or measured where there is none."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        title: Its maker's name for it.
        platform: JAX's: "tpu" or "cuda".
        memory_bytes: Size of its high-bandwidth memory, including what the system reserves.
        memory_bandwidth: Of that memory, bytes/s.
        bfloat16_flops: Of its matrix units, dense, FLOP/s; a multiply-add is two.
        link_bandwidth: Of all its links to other chips (ICI, NVLink) together, one direction,
            bytes/s.
        network_bandwidth: Its share of the data center network, one direction, bytes/s; None where
            its maker does not say.
        source: Of these figures.
    """

    title: str
    platform: str
    memory_bytes: int
    memory_bandwidth: float
    bfloat16_flops: float
    link_bandwidth: float
    network_bandwidth: float | None
    source: str


@dataclasses.dataclass(frozen=True)
class Peak:
    """Peak rates of one device.

    Attributes:
        flops: Of matrix products, FLOP/s.
        bandwidth: Of its memory, bytes/s.
        source: Of both figures.
    """

    flops: float
    bandwidth: float
    source: str


_NVIDIA = "NVIDIA {0} Tensor Core GPU data sheet, SXM; network: NVIDIA DGX {1} data sheet"
CHIPS = {
    "v4": Chip(
        "TPU v4",
        "tpu",
        32 * GIB,
        1200e9,
        275e12,
        300e9,
        None,
        "Google Cloud documentation, TPU v4: key specifications; links: Jouppi et al. 2023 "
        "(arXiv:2304.01433), table 4: 6 x 50 GB/s",
    ),
    "v5e": Chip(
        "TPU v5e",
        "tpu",
        16 * GIB,
        819e9,
        197e12,
        200e9,
        6.4e12 / 8 / 256,
        "Google Cloud documentation, TPU v5e: key specifications (ICI 1600 Gbps, data center "
        "network 6.4 Tbps per pod of 256)",
    ),
    "v5p": Chip(
        "TPU v5p",
        "tpu",
        95 * GIB,
        2765e9,
        459e12,
        600e9,
        50e9 / 8,
        "Google Cloud documentation, TPU v5p: key specifications (ICI 4800 Gbps, data center "
        "network 50 Gbps per chip)",
    ),
    "v6e": Chip(
        "TPU v6e",
        "tpu",
        32 * GIB,
        1600e9,
        918e12,
        400e9,
        25.6e12 / 8 / 256,
        "Google Cloud documentation, TPU v6e: system architecture (ICI 3200 Gbps, data center "
        "network 25.6 Tbps per pod of 256)",
    ),
    "a100": Chip(
        "NVIDIA A100 80GB",
        "cuda",
        80 * 10**9,
        2039e9,
        312e12,
        300e9,
        200e9 / 8,
        _NVIDIA.format("A100 80GB", "A100 (8 x 200 Gb/s)"),
    ),
    "h100": Chip(
        "NVIDIA H100",
        "cuda",
        80 * 10**9,
        3350e9,
        989e12,
        450e9,
        400e9 / 8,
        _NVIDIA.format("H100", "H100 (8 x 400 Gb/s)"),
    ),
    "h200": Chip(
        "NVIDIA H200",
        "cuda",
        141 * 10**9,
        4800e9,
        989e12,
        450e9,
        400e9 / 8,
        _NVIDIA.format("H200", "H200 (8 x 400 Gb/s)"),
    ),
}
# JAX's names of the chips (`device_kind`) by prefix; the longer names first.
_DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
}
_MATRIX_SIDE = 2048  # of the measured product
_TRIAD_SIZE = 2**24  # float32 elements of each array of the measured triad: more than caches hold


def device_peak(device: jax.Device, dtype: jnp.dtype) -> Peak:
    """Peak rates of a device: its chip's in bfloat16 by data sheet, else measured now in `dtype`.

    The devices that JAX makes of one CPU share its measured rates.
    """
    if chip := _chip(device.device_kind):
        return Peak(chip.bfloat16_flops, chip.memory_bandwidth, f"{chip.source}; bfloat16")
    share = len(jax.local_devices()) if device.platform == "cpu" else 1
    flops, bandwidth = _matmul_flops(device, dtype), _triad_bandwidth(device)
    return Peak(
        flops / share,
        bandwidth / share,
        f"measured on this machine: a {dtype.name} product of {_MATRIX_SIDE}x{_MATRIX_SIDE} "
        f"matrices, and a = b + 2 c with arrays of {_TRIAD_SIZE * 4 >> 20} MiB, the best of 5 each",
    )


def _chip(kind: str) -> Chip | None:
    return next(
        (CHIPS[name] for prefix, name in _DEVICE_KINDS.items() if kind.startswith(prefix)), None
    )


def _matmul_flops(device: jax.Device, dtype: jnp.dtype) -> float:
    """FLOP/s of a matrix product, accumulated in float32 as the models' are."""
    matrix = jax.device_put(jnp.ones((_MATRIX_SIDE, _MATRIX_SIDE), dtype), device)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    return 2 * _MATRIX_SIDE**3 / _best_seconds(lambda: product(matrix))


def _triad_bandwidth(device: jax.Device) -> float:
    """Bytes/s of STREAM's triad (McCalpin 1995), which reads two arrays and writes one."""
    b, c = (jax.device_put(jnp.full(_TRIAD_SIZE, value), device) for value in (1.0, 2.0))
    triad = jax.jit(lambda b, c: b + 2 * c)
    return 3 * b.nbytes / _best_seconds(lambda: triad(b, c))


def _best_seconds(function: Callable[[], jax.Array]) -> float:
    """Time of the fastest of 5 runs, after one that compiles."""
    function().block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function().block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)
