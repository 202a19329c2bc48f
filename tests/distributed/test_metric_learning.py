"""A step of metric learning on 8 devices is that of one: negatives are those of all devices."""

import dataclasses

import jax
import numpy as np
from shrinking import batch, make_task, shrink

from jaxtag.config import flags
from jaxtag.config.schema import Config, ModelConfig, OptimizerConfig
from jaxtag.distributed.mesh import make_global_batch, make_mesh
from jaxtag.training.setup import TrainSetup

CLASSES = 5


def configuration() -> Config:
    config = shrink(flags.load("cifar10_embed"))
    return dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, loss="triplet_all"),
        batch_size=24,
        data=dataclasses.replace(config.data, image_size=9, flip=False),
        model=ModelConfig(backbone="airbench94", kwargs={"widths": (8,)}),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.5, grad_clip_norm=None),
    )


def test_eight_devices_give_the_step_of_one() -> None:
    config, ended = configuration(), []
    rows = batch(config)
    rows["label"] %= CLASSES
    rows["mask"][7] = 0
    for count in (1, 8):
        mesh = make_mesh(devices=jax.devices()[:count])
        plan = TrainSetup.from_config(config, make_task(config, CLASSES), 64, mesh=mesh)
        ended.append(plan.step(plan.initialize(), make_global_batch(rows, mesh)))
    (one, first), (eight, second) = ended
    for a, b in zip(first["loss"], second["loss"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    start = plan.initialize().params
    leaves = zip(*map(jax.tree.leaves, (start, one.params, eight.params)), strict=True)
    for before, expected, got in leaves:
        step = np.abs(np.asarray(expected) - np.asarray(before)).max()
        np.testing.assert_allclose(got, expected, atol=1e-3 * step + 1e-6)
