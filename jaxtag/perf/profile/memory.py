"""What takes up a device's memory while a step runs."""

import math
import resource
import sys
from typing import Any

import jax

from jaxtag.perf import compiled
from jaxtag.perf.hlo import CONTROL, FREE, Program
from jaxtag.perf.profile.attribution import Origins
from jaxtag.perf.profile.measure import Job

_NUM_LARGEST = 20  # buffers that are listed
_IN_PLACE = frozenset(("dynamic-update-slice", "copy-done", "all-reduce-done"))


def by_kind(job: Job, program: jax.stages.Compiled) -> dict[str, int]:
    """Bytes on one device as the compiler planned them, and what the arguments consist of.

    `peak` is arguments, temporaries, and the outputs that alias no argument.
    """
    stats = compiled.memory_analysis(program)
    new_outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    kinds = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "outputs in place of arguments": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
        "peak": stats.argument_size_in_bytes + new_outputs + stats.temp_size_in_bytes,
    }
    state = job.setup.shapes
    parts = {
        "parameters": state.params,
        "collections": state.collections,
        "optimizer": state.opt_state,
        "moving average": state.ema,
        "batch": job.shapes,
    }
    return kinds | {name: _bytes_per_device(part) for name, part in parts.items()}


def in_use() -> dict[str, int]:
    """Bytes in use by the device's allocator, where it counts them, and by this process."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {"peak_bytes_in_use": "device, most so far", "bytes_limit": "device, limit"}
    return {title: stats[name] for name, title in names.items() if name in stats} | {
        "process, most so far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    }


def largest(program: Program, origins: Origins) -> list[dict[str, Any]]:
    """The largest buffers that kernels write, each with its origin."""
    buffers = [
        item
        for item in program.executed()
        if item.opcode not in FREE | CONTROL | _IN_PLACE and item.bytes
    ]
    rows = []
    for item in sorted(buffers, key=lambda item: -item.bytes)[:_NUM_LARGEST]:
        origin = origins.of(item.name)
        rows.append(
            {
                "name": item.name,
                "shape": item.shape,
                "bytes": item.bytes,
                "part": origin.part,
                "phase": origin.phase,
                "line": origin.line,
            }
        )
    return rows


def _bytes_per_device(arrays: Any) -> int:
    """Size of one device's shards of ShapeDtypeStructs with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(arrays)
    )
