"""A network with batch norm, augmentation on: a step on 8 devices is that of one."""

import dataclasses

import jax
import numpy as np
import pytest
from shrinking import batch, shrink

from jaxtag import config_flag
from jaxtag.config import AugmentationConfig, Config, ModelConfig
from jaxtag.parallel import mesh as meshes
from jaxtag.training import experiment
from jaxtag.training.state import State


def configuration(groups: int) -> Config:
    config = shrink(config_flag.load("cifar10_resnet18"))
    fields = {"depths": (1,) * 4, "bottleneck": False, "small_images": True, "norm_groups": groups}
    return dataclasses.replace(
        config,
        batch_size=64,
        data=dataclasses.replace(config.data, image_size=16),
        model=ModelConfig(encoder="resnet18", arguments=tuple(fields.items())),
        augmentation=AugmentationConfig(crop_padding=2, erasing=0.5, mixup=0.2, cutmix=1.0),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=0, ema_decay=0.9),
    )


def anywhere(state: State) -> State:
    """`state` with parameters that no gradient leaves alone, as zeros of a head do."""
    rng = np.random.RandomState(0)

    def moved(leaf: jax.Array) -> jax.Array:
        noise = 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)
        return jax.device_put(np.asarray(leaf) + noise, leaf.sharding)

    return state.replace(params=jax.tree.map(moved, state.params))


@pytest.mark.parametrize("groups", [1, 8])
def test_eight_devices_give_the_step_of_one(groups: int) -> None:
    config = configuration(groups)
    ended = []
    for count in (1, 8):
        mesh = meshes.make(devices=jax.devices()[:count])
        plan = experiment.build(config, 10, examples=64, mesh=mesh)
        rows = batch(config)
        rows["label"] %= 10
        ended.append(plan.step(anywhere(plan.initialize()), meshes.to_devices(rows, mesh)))
    (one, first), (eight, second) = ended
    np.testing.assert_allclose(first["loss"][0], second["loss"][0], rtol=1e-5)
    for part in ("params", "collections", "ema"):
        found = zip(
            jax.tree_util.tree_leaves_with_path(getattr(one, part)),
            jax.tree.leaves(getattr(eight, part)),
            strict=True,
        )
        for (path, expected), got in found:
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(got, expected, atol=2e-5 * scale, err_msg=str(path))
    mean = eight.collections["batch_stats"]["stem_norm"]["mean"]
    assert np.any(mean)
    # With a group for each device, its moments lie there alone.
    assert mean.addressable_shards[0].data.shape == ((64,) if groups == 1 else (1, 64))
