"""The analysis of a real step, compiled for 8 CPU devices in place of others."""

import dataclasses
import math

import jax
import pytest
import shrinking

from jaxtag import datasets
from jaxtag.config import flags
from jaxtag.config.schema import Config
from jaxtag.distributed import mesh as meshes
from jaxtag.perf import flops, step_inputs
from jaxtag.perf.aot import analyze, lower
from jaxtag.perf.aot.tables import table
from jaxtag.perf.aot.topologies import parse
from jaxtag.tasks.caption.config import CaptionConfig
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.training import run_data

TOPOLOGY = parse("v5e:2x4")
CHIP = TOPOLOGY.chip


def small(**mesh: int) -> Config:
    """A ViT of two layers in a scan."""
    config = shrinking.shrink(flags.load("imagenet_vit"))
    return dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **mesh))


def lowered(config: Config) -> lower.Lowered:
    return lower.lower(lower.plan(config, shrinking.VOCABULARY, jax.devices()))


@pytest.fixture(scope="module")
def plain() -> lower.Compiled:
    return lower.compile_step(lowered(small()))


@pytest.fixture(scope="module")
def analysis(plain) -> dict:
    return analyze.analyze(plain, TOPOLOGY)


def test_it_is_the_step_of_an_accelerator(plain):
    model = plain.lowered.setup.config.model
    assert (model.dtype, model.scan) == ("bfloat16", True)
    assert "bf16[" in plain.program.as_text()


def test_memory_by_kind(plain, analysis):
    memory, setup = analysis["memory_bytes_per_device"], plain.lowered.setup
    state = sum(math.prod(leaf.shape) * 4 for leaf in jax.tree.leaves(setup.shapes.params))
    assert memory["arguments"] > 3 * state  # parameters and two moments
    assert memory["outputs"] < state  # the new state takes the old one's place
    kinds = ("arguments", "outputs", "temporaries", "code")
    assert memory["peak"] == sum(memory[kind] for kind in kinds)
    assert analysis["fits"] and memory["capacity"] == CHIP.memory_bytes


def test_all_buffers_of_the_state_are_donated(plain, analysis):
    leaves = jax.tree.leaves(plain.lowered.setup.shapes)
    # The key is two words of its own kind, which XLA gives back as they are.
    assert analysis["program"]["donated buffers"] >= len(leaves) - 1


def test_flops_are_three_times_those_of_inference(plain, analysis):
    """Forward, and the gradients of inputs and of kernels; patches need no input's.

    Scores of attention are computed again.
    """
    setup = plain.lowered.setup
    task, size = setup.task, setup.config.data.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    variables = jax.eval_shape(task.init, jax.random.key(0))
    forward = 2 * flops.jaxpr_macs(jax.make_jaxpr(task.model.apply)(variables, images))
    count = (size // 16) ** 2
    patches = 2 * count * (16 * 16 * 3) * 32
    scores = 2 * count**2 * 32 * task.model.depth
    assert analysis["flops_per_example"] == 3 * forward - patches + scores


def test_gradients_are_what_is_added_up(analysis):
    """In float32 or bfloat16, with metrics and norms besides."""
    reduced = analysis["collectives"]["all-reduce"]["bytes"]
    assert 0.45 * analysis["gradient_bytes"] < reduced <= 1.05 * analysis["gradient_bytes"]


def test_the_bound_is_that_of_the_slowest_resource(analysis):
    bound = analysis["bound"]
    by = bound["seconds_by_resource"]
    computing = max(by["arithmetic"], by["memory"])
    assert bound["seconds"] == max(*by.values(), computing + by["exposed_links"])
    assert by[bound["by"]] == max(by.values())
    devices, batch = analysis["devices"], analysis["batch_size"]
    assert by["arithmetic"] == analysis["flops_per_example"] * batch / devices / CHIP.bfloat16_flops
    moved = analysis["hbm_bytes_per_example"] * batch / devices
    assert by["memory"] == pytest.approx(moved / CHIP.memory_bandwidth)
    assert bound["examples_per_second"] == pytest.approx(batch / bound["seconds"])


def test_the_table_says_what_people_ask_first(analysis):
    text = table(analysis, TOPOLOGY)
    assert "8 x TPU v5e (v5e:2x4), data 8 x fsdp 1 x tensor 1" in text
    assert "17.2 GB a device: fits" in text
    assert f"{analysis['bound']['by']}: " in text


def test_too_few_images_a_device_are_told_with_what_to_do(analysis):
    bound = {**analysis["bound"], "seconds": 1.0}
    bound["seconds_by_resource"] = {**bound["seconds_by_resource"], "arithmetic": 0.07}
    text = table({**analysis, "bound": bound}, TOPOLOGY)
    assert "arithmetic is 7% of the bound with 1 images a device: take --config.batch_size=256" in (
        text
    )
    busy = {**bound["seconds_by_resource"], "arithmetic": 0.8}
    text = table({**analysis, "bound": {**bound, "seconds_by_resource": busy}}, TOPOLOGY)
    assert "hint" not in text


def test_parameters_whole_on_a_mesh_that_splits_them_are_named():
    config = small(data=1, fsdp=8)
    setup = lower.plan(config, shrinking.VOCABULARY, jax.devices())
    assert analyze.unintended_replicas(setup) == []
    mesh = dataclasses.replace(config.mesh, rules=((r"mlp/fc1/kernel$", "replicate"),))
    wide = dataclasses.replace(config, mesh=mesh)
    kwargs = {**config.model.kwargs, "width": 128, "mlp_dim": 512}
    wide.model = dataclasses.replace(config.model, kwargs=kwargs)
    setup = lower.plan(wide, shrinking.VOCABULARY, jax.devices())
    named = [item.path for item in analyze.unintended_replicas(setup)]
    assert named == ["blocks/mlp/fc1/kernel"]


@pytest.mark.parametrize(
    ("message", "peak", "capacity"),
    [
        ("RESOURCE_EXHAUSTED: Used 17.50G of 15.75G hbm. Exceeded", 17.5 * 2**30, 15.75 * 2**30),
        (
            "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (1.50T) exceeds "
            "available HBM (15.75G)",
            1.5 * 2**40,
            15.75 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: no room", None, CHIP.memory_bytes),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_change(plain, message, peak, capacity):
    failed = analyze.analyze_failure(plain.lowered, lower.DoesNotFitError(message), CHIP)
    memory = failed["memory_bytes_per_device"]
    assert (failed["fits"], memory["peak"], memory["capacity"]) == (False, peak, capacity)
    assert "does not fit: take a smaller config.batch_size" in table(failed, parse("v5e:2x4"))


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        (CaptionConfig(max_length=8), {"tokens": (8, 1, 8)}),
        (TagConfig(), {"tags": (8, 300), "known": (8, 300)}),
        (ClassifyConfig(), {"label": (8,)}),
    ],
)
def test_the_batch_is_that_of_the_pipeline(task, targets):
    config = dataclasses.replace(small(), task=task)
    planned = run_data.task_class(config)(config, range(300))
    batch = step_inputs.batch_shapes(planned, meshes.make_mesh(devices=jax.devices()))
    assert {name: leaf.shape for name, leaf in batch.items()} == {
        "image": (8, 32, 32, 3),
        "mask": (8,),
        "broken": (8,),
        "index": (8,),
        "epoch": (8,),
        **targets,
    }


BUILT_IN = [n for n in flags.names() if flags.load(n).data.dataset in datasets.NAMES]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_configuration_is_known_in_size_without_data(name):
    config = flags.load(name)
    assert step_inputs.num_outputs(config) >= 10
    assert step_inputs.num_train_examples(config) >= 1000
