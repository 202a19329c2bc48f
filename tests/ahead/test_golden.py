"""What must not drift unseen: where parameters lie, and what XLA makes of a step.

After a change that is meant, write the files anew and look at their difference in review:

    JAXTAG_WRITE_GOLDEN=1 launch/local.sh test -m "" tests/ahead/test_golden.py
"""

import re

import golden
import jax
import pytest

from jaxtag import config_flag
from jaxtag.ahead import lowering, sizes
from jaxtag.parallel.sharding import Placement

# One of each kind; the others take longer to trace, and are slow tests.
QUICK = ("cifar10_resnet18", "cifar10_speed", "coco_caption", "imagenet_vit", "mnist_capsnet")


def lines(placements: list[Placement]) -> str:
    """Parameters that differ in their numbers alone are one line."""
    found: dict[tuple[str, str, str], int] = {}
    for item in placements:
        name = re.sub(r"\d+", "N", item.path)
        layout = ", ".join("." if axis is None else str(axis) for axis in item.spec) or "whole"
        key = (name, f"{len(item.shape)}d", f"{layout}  {item.remark}".rstrip())
        found[key] = found.get(key, 0) + 1
    return "".join(f"{count:4d} x {'  '.join(key)}\n" for key, count in found.items())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in config_flag.names()
    ],
)
def test_partition_specs(name):
    """On a mesh that splits in every way."""
    config = config_flag.load(name)
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 2, 2, 2
    experiment = lowering.plan(config, sizes.words(config), jax.devices())
    golden.check(f"partition_specs/{name}.txt", lines(experiment.placements))
