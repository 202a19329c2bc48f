"""Every operation of a training step is attributed to a part of the step."""

import functools

import pytest
from shrinking import VOCABULARY, batch, shrink

from jaxtag.config import flags
from jaxtag.distributed import mesh as meshes
from jaxtag.perf import hlo
from jaxtag.perf.profile.attribution import ModuleTree, Origins, phase
from jaxtag.training import run_data
from jaxtag.training.setup import TrainSetup

QUICK = ("cifar10_airbench", "shapes_caption")
OTHERS = tuple(pytest.param(n, marks=pytest.mark.slow) for n in sorted({*flags.names()} - {*QUICK}))


@functools.cache
def traced(name: str):
    config = shrink(flags.load(name))
    task = run_data.task_class(config)(config, range(VOCABULARY))
    setup = TrainSetup.from_config(config, task, 100)
    arrays = meshes.make_global_batch(batch(config), setup.mesh)
    text = setup.step.lower(setup.shapes, arrays).as_text("hlo", debug_info=True)
    program = hlo.parse(text)
    return program, Origins(program, ModuleTree(setup, arrays))


@pytest.mark.parametrize("name", [*QUICK, *OTHERS])
def test_every_operation_of_a_step_belongs_to_a_part_and_every_product_to_a_module(name):
    program, origins = traced(name)
    operations = [
        (item, origins.of(item.name))
        for item in program.instructions.values()
        if item.opcode not in hlo.FREE and item.op_name
    ]
    share = sum(origin.part is not None for _, origin in operations) / len(operations)
    assert share > 0.99
    # A loss of embeddings compares each with each; other losses multiply no matrices.
    compares = flags.load(name).task.TASK == "embed"
    outside = {
        (item.op_name, origin.part)
        for item, origin in operations
        if item.opcode in ("dot", "convolution")
        and origin.part in ((None,) if compares else ("(loss)", None))
    }
    assert not outside
    assert {"(optimizer)", "(loss)", "(metrics)"} <= {origin.part for _, origin in operations}


def test_paths_phases_and_lines():
    program, origins = traced("cifar10_airbench")
    products = [
        origin
        for item in program.instructions.values()
        if item.opcode in ("dot", "convolution") and (origin := origins.of(item.name)).module
    ]
    module_phases = {(origin.module, origin.phase) for origin in products}
    convolutions = {f"group{group}/conv{conv}" for group in (1, 2, 3) for conv in (1, 2)}
    for module in convolutions | {"head"}:
        assert {(module, "forward"), (module, "backward")} <= module_phases
    assert ("whiten", "forward") in module_phases and (
        "whiten",
        "backward",
    ) not in module_phases  # frozen
    folders = {origin.line.rpartition("/")[0] for origin in products}
    assert folders <= {"jaxtag/kernels", "jaxtag/models"}


@pytest.mark.parametrize(
    ("op_name", "expected"),
    [
        ("jit(on_mesh)/jvp(loss)/M/a/dot_general", "forward"),
        ("jit(on_mesh)/transpose(jvp(loss))/M/a/dot_general", "backward"),
        ("jit(f)/transpose(jvp(loss))/checkpoint/rematted_computation/M/a/dot_general", "again"),
        ("jit(on_mesh)/optimizer/mul", ""),
    ],
)
def test_phases(op_name, expected):
    assert phase(op_name) == expected
