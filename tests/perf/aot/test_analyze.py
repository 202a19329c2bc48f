"""What is read out of a real step, compiled for 8 CPU devices in place of foreign ones."""

import dataclasses
import math

import jax
import pytest
import shrinking

from jaxtag.config import flags
from jaxtag.config.schema import Config
from jaxtag.datasets import published_sizes
from jaxtag.distributed import mesh as meshes
from jaxtag.perf import flops
from jaxtag.perf.aot import analyze, lower
from jaxtag.perf.aot.tables import table
from jaxtag.perf.aot.topologies import parse

TOPOLOGY = parse("v5e:2x4")
CHIP = TOPOLOGY.chip


def small(**mesh: int) -> Config:
    """A ViT of two layers in a scan."""
    config = shrinking.shrink(flags.load("imagenet_vit"))
    return dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **mesh))


def lowered(config: Config) -> lower.Lowered:
    words = shrinking.VOCABULARY
    return lower.lower(lower.plan(config, words, jax.devices()), words)


@pytest.fixture(scope="module")
def plain(quick_compilation) -> lower.Compiled:
    return lower.compile_step(lowered(small()))


@pytest.fixture(scope="module")
def found(plain) -> dict:
    return analyze.read(plain, TOPOLOGY)


def test_it_is_the_step_of_an_accelerator(plain):
    model = plain.lowered.experiment.config.model
    assert (model.dtype, model.scan) == ("bfloat16", True)
    assert "bf16[" in plain.program.as_text()


def test_memory_by_kind(plain, found):
    held, experiment = found["memory_bytes_per_device"], plain.lowered.experiment
    state = sum(math.prod(leaf.shape) * 4 for leaf in jax.tree.leaves(experiment.shapes.params))
    assert held["arguments"] > 3 * state  # parameters and two moments
    assert held["outputs"] < state  # the new state takes the old one's place
    kinds = ("arguments", "outputs", "temporaries", "code")
    assert held["peak"] == sum(held[kind] for kind in kinds)
    assert found["fits"] and held["capacity"] == CHIP.memory_bytes


def test_all_buffers_of_the_state_are_donated(plain, found):
    leaves = jax.tree.leaves(plain.lowered.experiment.shapes)
    # The key is two words of its own kind, which XLA gives back as they are.
    assert found["program"]["donated buffers"] >= len(leaves) - 1


def test_flops_are_three_times_those_of_inference(plain, found):
    """Forward, and the gradients of inputs and of kernels; patches need no input's.

    Scores of attention are computed again.
    """
    experiment = plain.lowered.experiment
    task, size = experiment.task, experiment.config.data.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    variables = jax.eval_shape(task.init, jax.random.key(0))
    forward = 2 * flops.jaxpr_macs(jax.make_jaxpr(task.model.apply)(variables, images))
    count = (size // 16) ** 2
    patches = 2 * count * (16 * 16 * 3) * 32
    scores = 2 * count**2 * 32 * task.model.depth
    assert found["flops_per_example"] == 3 * forward - patches + scores


def test_gradients_are_what_is_added_up(found):
    """In float32 or bfloat16, with metrics and norms besides."""
    given = found["collectives"]["all-reduce"]["bytes"]
    assert 0.45 * found["gradient_bytes"] < given <= 1.05 * found["gradient_bytes"]


def test_the_bound_is_that_of_the_slowest_resource(found):
    bound = found["bound"]
    by = bound["seconds_by_resource"]
    assert bound["seconds"] == by[bound["by"]] == max(by.values())
    devices, batch = found["devices"], found["batch_size"]
    assert by["arithmetic"] == found["flops_per_example"] * batch / devices / CHIP.bfloat16_flops
    moved = found["hbm_bytes_per_example"] * batch / devices
    assert by["memory"] == pytest.approx(moved / CHIP.memory_bandwidth)
    assert bound["examples_per_second"] == pytest.approx(batch / bound["seconds"])


def test_the_table_says_what_people_ask_first(found):
    text = table(found, TOPOLOGY)
    assert "8 x TPU v5e (v5e:2x4), data 8 x fsdp 1 x tensor 1" in text
    assert "17.2 GB a device: fits" in text
    assert f"{found['bound']['by']}: " in text


def test_parameters_whole_on_a_mesh_that_splits_them_are_named():
    config = small(data=1, fsdp=8)
    experiment = lower.plan(config, shrinking.VOCABULARY, jax.devices())
    assert analyze.replicated_by_accident(experiment) == []
    mesh = dataclasses.replace(config.mesh, rules=((r"mlp/fc1/kernel$", "replicate"),))
    wide = dataclasses.replace(config, mesh=mesh)
    arguments = tuple({**dict(config.model.kwargs), "width": 128, "mlp_dim": 512}.items())
    wide.model = dataclasses.replace(config.model, arguments=arguments)
    experiment = lower.plan(wide, shrinking.VOCABULARY, jax.devices())
    named = [item.path for item in analyze.replicated_by_accident(experiment)]
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
    failed = analyze.read_failure(plain.lowered, lower.DoesNotFit(message), CHIP)
    held = failed["memory_bytes_per_device"]
    assert (failed["fits"], held["peak"], held["capacity"]) == (False, peak, capacity)
    assert "does not fit: take a smaller config.batch_size" in table(failed, parse("v5e:2x4"))


def test_the_batch_is_that_of_the_pipeline():
    config = small()
    for task, fields in (
        ("caption", {"tokens": (8, 1, 8)}),
        ("tag", {"tags": (8, 300), "known": (8, 300)}),
        ("classify", {"label": (8,)}),
    ):
        changed = dataclasses.replace(config, task=task)
        batch = lower.batch_of(changed, 300, meshes.make_mesh(devices=jax.devices()))
        shapes = {name: leaf.shape for name, leaf in batch.items()}
        usual = {
            "image": (8, 32, 32, 3),
            "mask": (8,),
            "broken": (8,),
            "index": (8,),
            "epoch": (8,),
        }
        assert shapes == usual | fields


@pytest.mark.parametrize("name", flags.names())
def test_every_configuration_is_known_in_size_without_data(name):
    config = flags.load(name)
    assert published_sizes.words(config) >= 10
    assert published_sizes.examples(config) >= 1000
