"""What must not drift unseen: where parameters lie, and what XLA makes of a step.

After a change that is meant, write the files anew and look at their difference in review:

    JAXTAG_WRITE_GOLDEN=1 launch/local.sh test -m "" tests/perf/aot/test_golden.py
"""

import re
from importlib import metadata

import golden
import jax
import pytest
from shrinking import VOCABULARY, shrink

from jaxtag.config import flags
from jaxtag.distributed.sharding import ParamSharding
from jaxtag.perf import collectives, hbm_traffic, hlo, step_inputs
from jaxtag.perf.aot import analyze, lower, topologies

# One of each kind; the others take longer to trace, and are slow tests.
QUICK = ("cifar10_resnet18", "cifar10_airbench", "coco_caption", "imagenet_vit", "mnist_capsnet")


def lines(placements: list[ParamSharding]) -> str:
    """Parameters that differ in their numbers alone are one line."""
    counts: dict[tuple[str, str, str], int] = {}
    for item in placements:
        name = re.sub(r"\d+", "N", item.path)
        layout = ", ".join("." if axis is None else str(axis) for axis in item.spec) or "whole"
        key = (name, f"{len(item.shape)}d", f"{layout}  {item.note}".rstrip())
        counts[key] = counts.get(key, 0) + 1
    return "".join(f"{count:4d} x {'  '.join(key)}\n" for key, count in counts.items())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name in flags.names()
    ],
)
def test_partition_specs(name):
    """On a mesh that splits in every way."""
    config = flags.load(name)
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 2, 2, 2
    own = name.startswith("my_")  # data of a size that nobody knows
    num_outputs = VOCABULARY if own else step_inputs.num_outputs(config)
    setup = lower.plan(config, num_outputs, jax.devices())
    golden.check(f"partition_specs/{name}.txt", lines(setup.param_shardings))


def summary(name: str, devices: list[jax.Device]) -> dict[str, int]:
    """Of a small form of a configuration's step: what of each kind its program has."""
    config = shrink(flags.load(name))
    lowered = lower.lower(lower.plan(config, VOCABULARY, devices))
    text = lower.compile_step(lowered).program.as_text()
    program = hlo.parse(text)
    by_kind = collectives.collectives(program, hbm_traffic.trip_counts(program, text, fused=True))
    sizes = {f"bytes given to {kind}": item.bytes for kind, item in by_kind.items()}
    return analyze.fingerprint(program, text) | sizes


def check_program(name: str, counts: dict[str, int], compiler: str) -> None:
    """Programs are compared where they come from the compiler that the file names."""
    compiler = f"{compiler} {metadata.version(compiler)}"
    written = golden.read(name).partition("\n")[0]
    if written not in ("", compiler) and not golden.writing():
        pytest.skip(f"{name} is of {written}, this is {compiler}")
    lines = [compiler, *(f"{count:9,d}  {kind}" for kind, count in counts.items())]
    golden.check(name, "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "name", [pytest.param("cifar10_resnet18", marks=pytest.mark.slow), "coco_caption"]
)
def test_collectives_and_donated_buffers_on_cpu(name):
    """What of the program does not depend on the kind of CPU."""
    counts = summary(name, jax.devices())
    kinds = ("donated buffers", *collectives.COLLECTIVES)
    portable = {kind: count for kind, count in counts.items() if kind.split(" to ")[-1] in kinds}
    check_program(f"programs/cpu/{name}.txt", portable, "jaxlib")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_programs_for_a_tpu(name):
    pytest.importorskip("libtpu")
    counts = summary(name, topologies.devices(topologies.parse("v5e:2x2")))
    check_program(f"programs/v5e/{name}.txt", counts, "libtpu")
