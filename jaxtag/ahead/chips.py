"""What accelerators can do at best, by their makers' data sheets."""

import dataclasses

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      title: as its maker calls it.
      platform: of JAX: "tpu" or "cuda".
      memory_bytes: of its high-bandwidth memory, before what the system keeps for itself.
      memory_bandwidth: of that memory, bytes/s.
      bfloat16_flops: of its matrix units, dense, FLOP/s; a multiply-add is two.
      link_bandwidth: of all its links to other chips (ICI, NVLink) together in one direction,
        bytes/s.
      source: of these figures.
    """

    title: str
    platform: str
    memory_bytes: int
    memory_bandwidth: float
    bfloat16_flops: float
    link_bandwidth: float
    source: str


_NVIDIA = "NVIDIA {0} Tensor Core GPU data sheet, SXM"
CHIPS = {
    "v4": Chip(
        "TPU v4",
        "tpu",
        32 * GIB,
        1200e9,
        275e12,
        300e9,
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
        "Google Cloud documentation, TPU v5e: key chip specifications (ICI 1600 Gbps)",
    ),
    "v5p": Chip(
        "TPU v5p",
        "tpu",
        95 * GIB,
        2765e9,
        459e12,
        600e9,
        "Google Cloud documentation, TPU v5p: key chip specifications (ICI 4800 Gbps)",
    ),
    "v6e": Chip(
        "TPU v6e",
        "tpu",
        32 * GIB,
        1600e9,
        918e12,
        400e9,
        "Google Cloud documentation, TPU v6e: system architecture (ICI 3200 Gbps)",
    ),
    "a100": Chip(
        "NVIDIA A100 80GB", "cuda", 80 * 10**9, 2039e9, 312e12, 300e9, _NVIDIA.format("A100 80GB")
    ),
    "h100": Chip("NVIDIA H100", "cuda", 80 * 10**9, 3350e9, 989e12, 450e9, _NVIDIA.format("H100")),
    "h200": Chip("NVIDIA H200", "cuda", 141 * 10**9, 4800e9, 989e12, 450e9, _NVIDIA.format("H200")),
}
