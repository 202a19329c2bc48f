"""Options of XLA for the compiled step, by named sets.

Training and ahead-of-time compilation resolve them alike, so that what `jaxtag.compile` analyzed is
what `jaxtag.train` runs. XLA refuses an option that it does not have.
"""

from collections.abc import Sequence

from jaxtag.errors import UsageError, did_you_mean

# Set -> platform -> options. Sources: MaxText's and Google Cloud's tuning guides for TPU, NVIDIA's
# JAX-Toolbox guide for GPU (2026-11).
SETS: dict[str, dict[str, dict[str, str]]] = {
    # Orders the program so that what waits for a link or for memory waits behind arithmetic.
    "latency_hiding": {
        "tpu": {"xla_tpu_enable_latency_hiding_scheduler": "true"},
        "gpu": {"xla_gpu_enable_latency_hiding_scheduler": "true"},
    },
    # Splits collectives into start and done, and runs arithmetic between the two.
    "async_collectives": {
        "tpu": {
            "xla_tpu_enable_async_collective_fusion": "true",
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
            "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
            "xla_tpu_overlap_compute_collective_tc": "true",
            "xla_enable_async_all_gather": "true",
        },
        "gpu": {
            "xla_gpu_enable_pipelined_all_gather": "true",
            "xla_gpu_enable_pipelined_all_reduce": "true",
            "xla_gpu_enable_pipelined_reduce_scatter": "true",
        },
    },
    # Gradients of a data-parallel step are exchanged while the backward pass still computes.
    "data_parallel_overlap": {
        "tpu": {
            "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
            "xla_tpu_data_parallel_opt_different_sized_ops": "true",
        },
        "gpu": {"xla_gpu_all_reduce_combine_threshold_bytes": "134217728"},
    },
}
_PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}


def resolve(names: Sequence[str], platform: str) -> dict[str, str]:
    """The options of `config.xla_options` on a platform of JAX: {option: value}, later ones win.

    A set that has no options for the platform (all of them on CPU) adds none.

    Raises:
        UsageError: A name is neither a set nor `option=value`.
    """
    options: dict[str, str] = {}
    for name in names:
        option, separator, value = name.partition("=")
        if separator and option.startswith("xla_"):
            options[option] = value
        elif name in SETS:
            options |= SETS[name].get(_PLATFORMS.get(platform, platform), {})
        else:
            raise UsageError(
                f"config.xla_options: {name!r} is neither xla_OPTION=VALUE nor a known set"
                + did_you_mean(name, SETS)
            )
    return options
