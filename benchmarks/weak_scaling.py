"""A model, on paper, of how a step's time grows from 1 to 50,000 chips with the batch of each kept.

    python benchmarks/weak_scaling.py COMPILED.json

COMPILED.json is what `jaxtag.compile --output` wrote for a data-parallel run on TPU v5e. Nothing
here was measured on chips; it says what the compiled program's counts allow. Assumptions:

- A chip computes for as long as the slower of its arithmetic and its memory at their peaks.
- Gradients are exchanged after that, not beside it: inside a slice by reduce-scatter and all-gather
  over the chip's links at their peak, between slices each chip its share over the data centre's
  network at its peak.
- A message needs 1 microsecond a hop inside a slice, and 50 between slices in each round of a tree.
- Chips are equally fast and none fails; input keeps up.
"""

import json
import math
import sys
from pathlib import Path

SLICE = 256  # chips
HOP = 1e-6
ROUND = 50e-6
CHIPS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 50_176)


def exchange(chips: int, num_bytes: float, links: float, network: float) -> float:
    """Seconds to add up `given` bytes over all chips."""
    inside = min(chips, SLICE)
    slices = chips // inside
    seconds = 2 * (inside - 1) / inside * num_bytes / links
    seconds += 4 * (math.isqrt(inside) - 1) * HOP  # both ways along both sides of the torus
    if slices > 1:
        seconds += 2 * (slices - 1) / slices * num_bytes / inside / network
        seconds += 2 * math.ceil(math.log2(slices)) * ROUND
    return seconds


def table(compiled: dict) -> str:
    """Rows of chips, seconds of a step, images/s and efficiency against one chip."""
    by, peaks = compiled["bound"]["seconds_by_resource"], compiled["bound"]["peaks"]
    num_bytes = sum(item["bytes"] for item in compiled["collectives"].values())
    alone = max(by["arithmetic"], by["memory"])
    batch = compiled["batch_size"] / compiled["devices"]
    rows = ["| chips | exchange, ms | step, ms | images/s | efficiency |", "|---|---|---|---|---|"]
    for chips in CHIPS:
        spent = exchange(chips, num_bytes, peaks["link_bandwidth"], peaks["network_bandwidth"])
        step = alone + spent
        rows.append(
            f"| {chips:,} | {1e3 * spent:.2f} | {1e3 * step:.2f} | {chips * batch / step:,.0f} | "
            f"{alone / step:.1%} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
