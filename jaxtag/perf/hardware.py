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
      network_bandwidth: of its share of the data centre's network, in one direction, bytes/s; None
        where its maker does not say.
      source: of these figures.
    """

    title: str
    platform: str
    memory_bytes: int
    memory_bandwidth: float
    bfloat16_flops: float
    link_bandwidth: float
    network_bandwidth: float | None
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
