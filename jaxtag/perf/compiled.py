"""What XLA itself tells about a compiled program: its text, its memory plan, its costs."""

from typing import Any

import jax


def text(compiled: jax.stages.Compiled) -> str:
    """The HLO text of the optimized program."""
    hlo_text = compiled.as_text()
    assert hlo_text is not None, "this backend has no program text"
    return hlo_text


def memory_analysis(compiled: jax.stages.Compiled) -> Any:
    """XLA's `CompiledMemoryStats`: bytes on each device, `*_size_in_bytes`."""
    stats = compiled.memory_analysis()
    assert stats is not None, "this backend has no memory analysis"
    return stats


def cost_analysis(compiled: jax.stages.Compiled) -> dict[str, float]:
    """XLA's own costs of one device, such as "flops"; empty ahead of time for GPUs."""
    return compiled.cost_analysis() or {}
