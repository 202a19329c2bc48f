"""A made-up profile, with names that would be elements if a page let them."""

from typing import Any

HOSTILE = "<img src=x onerror=alert(1)></script><script>document.title='taken'</script>"


def kernel(name: str, seconds: float, **fields: Any) -> dict[str, Any]:
    entry = {
        "name": name,
        "seconds": seconds,
        "runs": 1.0,
        "opcode": "fusion",
        "shape": "f32[8]{0}",
    }
    entry |= {"module": "group1/conv1", "part": "group1/conv1", "phase": "forward"}
    entry |= {"line": "jaxtag/models/conv.py:64", "flops": 2e9, "bytes": 1e6}
    return entry | {"bound": "arithmetic", "least": 0.5 * seconds} | fields


def profile(scale: float = 1.0, **fields: Any) -> dict[str, Any]:
    kernels = [
        kernel("fusion.1", 0.03 * scale),
        kernel("dot.2", 0.02, phase="backward", opcode="dot"),
        kernel(HOSTILE, 0.01, part=None, module=None, phase="", flops=0, bound="memory"),
    ]
    parts = [
        {"part": "group1/conv1", "seconds": 0.02 + 0.03 * scale, "forward": 0.03 * scale}
        | {"backward": 0.02, "least": 0.03, "flops": 4e9, "bytes": 2e6},
        {"part": None, "seconds": 0.01, "other": 0.01, "least": 0.0, "flops": 0, "bytes": 0},
    ]
    step = {"data": 0.004, "host": 0.001, "device": 0.04 + 0.03 * scale, "checkpoint": 0.002}
    seconds = sum(step.values())
    step |= {"seconds": seconds, "images_per_second": 8 / seconds, "batch_size": 8}
    step |= {"each": [0.07, 0.08], "median": 0.075, "traced": 0.08, "traced_device": 0.075}
    step |= {"save": {"blocked": 2.0, "written": 3.0, "every": 1000}}
    largest = {"name": "fusion.1", "shape": "f32[1024,1024]{1,0}", "bytes": 4 << 20}
    largest |= {"part": "group1/conv1", "phase": "forward", "line": "jaxtag/models/conv.py:64"}
    content = {
        "title": f"classify, resnet18, {HOSTILE}",
        "config": {"batch_size": 8, "model": {"dtype": "float32"}},
        "date": "2026-01-01T00:00:00+00:00",
        "device": {"kind": "cpu", "platform": "cpu", "count": 1, "processes": 1},
        "versions": {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8", "jaxtag": "0.1.0"},
        "dtype": "float32",
        "compilation": {
            "trace_seconds": 1.0,
            "compile_seconds": 9.0 * scale,
            "recompilations": [{"call": 3, "seconds": 2.0, "changes": ["[1]['x']: a → b"]}],
        },
        "step": step,
        "costs": {
            "flops": {"xla": 4.1e9, "analytic": 4e9},
            "bytes": 2e8,
            "peak": {"flops": 1.5e11, "bandwidth": 2e10, "source": "measured"},
            "mfu": 4e9 / seconds / 1.5e11,
            "hardware_utilisation": 4.1e9 / seconds / 1.5e11,
            "bandwidth": 2e8 / step["device"],
            "bandwidth_share": 2e8 / step["device"] / 2e10,
        },
        "kernels": kernels,
        "parts": parts,
        "memory": {
            "planned": {"arguments": 5 << 20, "temporaries": 7 << 20, "peak": 12 << 20},
            "in_use": {"process, most so far": 1 << 30},
            "largest": [largest],
        },
    }
    return content | fields
