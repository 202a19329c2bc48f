"""What the memory of a device is taken by while a step runs."""

import math
import resource
import sys
from typing import Any

import jax

from jaxtag.perf.hlo import CONTROL, FREE, Program
from jaxtag.perf.profile.attribution import Origins
from jaxtag.perf.profile.measure import Job

_LARGEST = 20  # buffers that are listed
_IN_PLACE = frozenset(("dynamic-update-slice", "copy-done", "all-reduce-done"))


def by_kind(job: Job, compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes on one device, as the compiler planned them, with what the arguments are made of.

    `peak` is arguments, temporaries and the outputs that take no argument's place.
    """
    found = compiled.memory_analysis()
    new_outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    kinds = {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes,
        "outputs in place of arguments": found.alias_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
        "program": found.generated_code_size_in_bytes,
        "peak": found.argument_size_in_bytes + new_outputs + found.temp_size_in_bytes,
    }
    state = job.experiment.shapes
    parts = {
        "parameters": state.params,
        "collections": state.collections,
        "optimizer": state.optimizer,
        "moving average": state.ema,
        "batch": job.shapes,
    }
    return kinds | {name: _on_a_device(part) for name, part in parts.items()}


def in_use() -> dict[str, int]:
    """Bytes in use as the device's allocator counts them, where it does, and of this process."""
    scale = 1 if sys.platform == "darwin" else 1024
    counted = jax.local_devices()[0].memory_stats() or {}
    names = {"peak_bytes_in_use": "device, most so far", "bytes_limit": "device, limit"}
    return {title: counted[name] for name, title in names.items() if name in counted} | {
        "process, most so far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    }


def largest(program: Program, origins: Origins) -> list[dict[str, Any]]:
    """The largest buffers that kernels write, with who made them."""
    made = [
        item
        for item in program.run()
        if item.opcode not in FREE | CONTROL | _IN_PLACE and item.bytes
    ]
    rows = []
    for item in sorted(made, key=lambda item: -item.bytes)[:_LARGEST]:
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


def _on_a_device(arrays: Any) -> int:
    """Bytes of one device's share of arrays that are shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(arrays)
    )
