"""What the device can do at best: by its data sheet, or measured where there is none."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtag.perf.hardware import CHIPS, Chip

# What JAX calls the chips (`device_kind`), by its beginning; the longer names first.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
}
_SIDE = 2048  # of the matrices of the measured product
_NUMBERS = 2**24  # float32 of each array of the measured copy, more than a cache holds


@dataclasses.dataclass(frozen=True)
class Peak:
    """Of one device.

    Attributes:
      flops: FLOP/s of matrix products.
      bandwidth: of its memory, bytes/s.
      source: of both figures.
    """

    flops: float
    bandwidth: float
    source: str


def of(device: jax.Device, dtype: jnp.dtype) -> Peak:
    """The peak of a device: its chip's in bfloat16, or what was measured now in `dtype`.

    The devices that JAX makes of one CPU share what was measured.
    """
    if chip := _chip(device.device_kind):
        return Peak(chip.bfloat16_flops, chip.memory_bandwidth, f"{chip.source}; bfloat16")
    share = len(jax.local_devices()) if device.platform == "cpu" else 1
    flops, bandwidth = _product(device, dtype), _triad(device)
    return Peak(
        flops / share,
        bandwidth / share,
        f"measured on this machine: a {dtype.name} product of {_SIDE}x{_SIDE} matrices, and "
        f"a = b + 2 c with arrays of {_NUMBERS * 4 >> 20} MiB, the best of 5 each",
    )


def _chip(kind: str) -> Chip | None:
    return next((CHIPS[name] for start, name in _KINDS.items() if kind.startswith(start)), None)


def _product(device: jax.Device, dtype: jnp.dtype) -> float:
    """FLOP/s of a matrix product, summed in float32 as the models' are."""
    matrix = jax.device_put(jnp.ones((_SIDE, _SIDE), dtype), device)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    return 2 * _SIDE**3 / _best(lambda: product(matrix))


def _triad(device: jax.Device) -> float:
    """Bytes/s of STREAM's triad (McCalpin 1995): two arrays are read, one is written."""
    b, c = (jax.device_put(jnp.full(_NUMBERS, value), device) for value in (1.0, 2.0))
    triad = jax.jit(lambda b, c: b + 2 * c)
    return 3 * b.nbytes / _best(lambda: triad(b, c))


def _best(work: Callable[[], jax.Array]) -> float:
    """Seconds of the fastest of 5 runs, after one that compiles."""
    work().block_until_ready()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work().block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)
