"""Parameter shardings by rules, and a sharded run against one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from shrinking import VOCABULARY, batch, make_task, shrink

from jaxtag.config.schema import Config, MeshConfig, OptimizerConfig
from jaxtag.distributed import sharding
from jaxtag.distributed.mesh import batch_sharding, check_batch, make_global_batch, make_mesh
from jaxtag.errors import UsageError, UserError
from jaxtag.tasks.caption.config import CaptionConfig
from jaxtag.training.setup import TrainSetup

SIZES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (4, 1, 2), "all": (2, 2, 2)}
SLOW = pytest.mark.slow


def _config() -> Config:
    task = CaptionConfig(captions_per_image=2, label_smoothing=0.1)
    optimizer = OptimizerConfig(ema_decay=0.9, weight_decay=0.1)
    config = shrink(Config(task=task, optimizer=optimizer))
    config.model.decoder_width = 64
    config.model.kwargs["width"] = 64
    return dataclasses.replace(config, batch_size=16)


def _train(sizes, config, monkeypatch, steps=3):
    monkeypatch.setattr(sharding, "_SMALL", 64)  # so that small parameters are split too
    devices = jax.devices()[: int(np.prod(sizes))]
    mesh = make_mesh(*sizes, devices=devices)
    plan = TrainSetup.from_config(config, make_task(config, VOCABULARY), 64, mesh=mesh)
    state, losses = plan.initialize(), []
    for number in range(steps):
        arrays = batch(config, number)
        arrays["mask"][number] = 0.0
        state, metrics = plan.step(state, make_global_batch(arrays, mesh))
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return plan, state, losses


@pytest.fixture(scope="module")
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        yield _train((1, 1, 1), _config(), patch)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k == "all" else SLOW) for k in SIZES])
def test_eight_devices_give_the_losses_of_one(kind, one_device, monkeypatch):
    plan, state, losses = _train(SIZES[kind], _config(), monkeypatch)
    np.testing.assert_allclose(losses, one_device[2], rtol=2e-5)
    for path, (ours, theirs) in zip(
        [path for path, _ in sharding.paths(state.params)],
        zip(jax.tree.leaves(state.ema), jax.tree.leaves(one_device[1].ema), strict=True),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-4, err_msg=path)
    if kind != "data":
        split = [item for item in plan.param_shardings if any(item.spec)]
        assert len(split) > 20
        share = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.params))
        assert share < 0.7 * sum(leaf.size for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("scan", [False, True])
@SLOW
def test_sharded_parameters_leave_each_device_its_own_images(scan, monkeypatch):
    """Without `constrain_batch` a device holds the activations of all images: 5 times as much."""
    config = dataclasses.replace(_config(), batch_size=256)
    config.model.scan = scan

    def temporaries(kind):
        mesh = make_mesh(*SIZES[kind])
        plan = TrainSetup.from_config(config, make_task(config, VOCABULARY), 64, mesh=mesh)
        rows_sharding = batch_sharding(mesh)
        arrays = {
            name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=rows_sharding)
            for name, value in batch(config).items()
        }
        program = plan.step.trace(plan.shapes, arrays).lower().compile()
        return program.memory_analysis().temp_size_in_bytes

    monkeypatch.setattr(sharding, "_SMALL", 64)
    assert temporaries("fsdp") < 1.2 * temporaries("data")


def test_moments_and_average_lie_as_their_parameters(monkeypatch):
    plan, state, _ = _train((2, 2, 2), _config(), monkeypatch, steps=1)
    specs = {item.path: item.spec for item in plan.param_shardings}
    mirrored = 0
    for path, leaf in sharding.paths(state.opt_state):
        for name, spec in specs.items():
            if path.endswith("/" + name):
                assert leaf.sharding.spec == spec, path
                mirrored += 1
    assert mirrored == 2 * len(specs)  # both moments of each


@pytest.mark.parametrize(
    "sizes", [pytest.param((8, 1, 1), marks=SLOW), (2, 4, 1)], ids=["data", "fsdp too"]
)
def test_moments_and_average_split_over_data_on_the_host(sizes, one_device, monkeypatch):
    config = _config()
    config.mesh = MeshConfig(shard_optimizer_over_data=True, offload=("opt_state", "ema"))
    _, state, losses = _train(sizes, config, monkeypatch)
    np.testing.assert_allclose(losses, one_device[2], rtol=2e-5)
    evaluated = zip(
        jax.tree.leaves(state.evaluation_variables),
        jax.tree.leaves(one_device[1].evaluation_variables),
        strict=True,
    )
    for ours, theirs in evaluated:
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    for path, leaf in sharding.paths({"opt_state": state.opt_state, "ema": state.ema}):
        assert leaf.sharding.memory_kind == sharding.HOST_MEMORY, path
    for leaf in jax.tree.leaves(state.evaluation_variables):
        assert leaf.sharding.memory_kind != sharding.HOST_MEMORY

    def share(tree):  # of all elements, that one device has
        leaves = jax.tree.leaves(tree)
        held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
        return held / sum(leaf.size for leaf in leaves)

    assert share(state.opt_state) < 0.25 and share(state.ema) < 0.25
    assert share(state.params) > 0.9 / sizes[1]


@SLOW
def test_accumulation_gives_the_same_step(monkeypatch, one_device):
    config = _config()
    config.model.dropout = 0.0
    expected = _train((2, 1, 1), config, monkeypatch)
    parts = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, grad_accum_steps=4)
    )
    accumulated = _train((2, 1, 1), parts, monkeypatch)
    np.testing.assert_allclose(accumulated[2], expected[2], rtol=2e-5)


def test_first_rule_wins_and_odd_sizes_stay_whole():
    mesh = make_mesh(2, 2, 2)
    params = {"a": {"kernel": jnp.zeros((6, 8))}, "b": jnp.zeros((3, 5)), "c": jnp.zeros((4, 6, 8))}
    rules = (("a/kernel", "fsdp tensor"), ("b", "tensor fsdp"), (".*", "tensor ."))
    placed = {item.path: item for item in sharding.infer_sharding(params, mesh, rules)}
    assert placed["a/kernel"].spec == PartitionSpec("fsdp", "tensor")
    assert not any(placed["b"].spec) and "no multiple" in placed["b"].note
    assert placed["c"].spec == PartitionSpec(None, "tensor", None)
    table = sharding.table(list(placed.values()), mesh)
    assert "1/4" in table and "3 is no multiple of tensor=2" in table


def test_wrong_rules_and_meshes_are_named():
    mesh = make_mesh(8)
    with pytest.raises(UsageError, match="no rule covers the parameter a"):
        sharding.infer_sharding({"a": jnp.zeros(3)}, mesh, (("b", "auto"),))
    with pytest.raises(UsageError, match="unknown layout word 'fdsp'"):
        sharding.infer_sharding({"a": jnp.zeros(3)}, mesh, ((".*", "fdsp"),))
    with pytest.raises(UserError, match="does not fit the 8 devices"):
        make_mesh(3, 1, 1)
    with pytest.raises(UserError, match="take a multiple of 8"):
        check_batch(mesh, 12)
