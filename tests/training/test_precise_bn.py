"""Moments of batch norm that are computed for averaged parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shrinking import batch, make_task, with_batch_norm

from jaxtag.distributed import mesh as meshes
from jaxtag.kernels import batch_norm
from jaxtag.training import precise_bn
from jaxtag.training.setup import TrainSetup

BATCHES = 3


class Iterator:
    """Batches of drawn pictures, the same each time."""

    def __init__(self, config):
        self._rows = [
            {**batch(config, seed), "label": np.zeros(64, np.int32)} for seed in (1, 2, 3, 4)
        ]

    def __iter__(self):
        return iter(self._rows)

    def close(self):
        pass


DEVICES_AND_GROUPS = [(1, 1), pytest.param((8, 8), marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=DEVICES_AND_GROUPS, ids=str)
def refreshed(request):
    """(configuration, state before, state after) with moments from three batches."""
    devices, groups = request.param
    config = with_batch_norm(groups)
    mesh = meshes.make_mesh(devices=jax.devices()[:devices])
    plan = TrainSetup.from_config(config, make_task(config, 10), 64, mesh=mesh)
    refresh = precise_bn.make_bn_recalibration(plan.task, mesh, lambda: Iterator(config), BATCHES)
    state = plan.initialize()
    return config, plan, state, refresh(state)


def test_first_norm_has_the_moments_of_all_pixels(refreshed):
    """What it sees does not depend on other moments, so that all is known of it."""
    config, plan, state, after = refreshed
    kernel = np.asarray(state.params["stem"]["kernel"])
    seen = []
    for number, rows in zip(range(BATCHES), Iterator(config), strict=False):
        key = jax.random.fold_in(state.key, number)
        augment_key, mix_key, _ = jax.random.split(key, 3)
        images = plan.task.model_images({"image": jnp.asarray(rows["image"])}, augment_key)
        images, _ = plan.task.augmentation.mix(images, jnp.zeros((64, 10)), mix_key)
        seen.append(
            jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
    pixels = np.concatenate(seen).reshape(-1, kernel.shape[-1]).astype(np.float64)
    moments = after.ema["collections"]["batch_stats"]["stem_norm"]
    mean, variance = batch_norm.population(moments["mean"], moments["var"])
    np.testing.assert_allclose(mean, pixels.mean(0), atol=1e-5)
    # Each batch's variance is the unbiased one.
    np.testing.assert_allclose(variance, pixels.var(0), rtol=1e-3, atol=1e-6)


def test_nothing_else_changes(refreshed):
    _, _, state, after = refreshed
    same = jax.tree.map(
        np.array_equal, after.replace(ema=None, key=None), state.replace(ema=None, key=None)
    )
    assert all(jax.tree.leaves(same))
    assert all(
        jax.tree.leaves(jax.tree.map(np.array_equal, after.ema["params"], state.ema["params"]))
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (state.ema, after.ema))
    assert shardings[0] == shardings[1]
    changed = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), state.ema["collections"], after.ema["collections"]
    )
    assert all(jax.tree.leaves(changed))


def test_moments_together_are_those_of_all():
    """Batches of unequal means, each with a biased variance: those of all their values."""
    values = np.random.RandomState(0).randn(4, 50, 3) + np.arange(4)[:, None, None]
    moments = [
        {"a": {"mean": jnp.asarray(v.mean(0)), "var": jnp.asarray(v.var(0))}} for v in values
    ]
    all_of_them = precise_bn.combine_moments(moments)["a"]
    np.testing.assert_allclose(all_of_them["mean"], values.mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(all_of_them["var"], values.reshape(-1, 3).var(0), rtol=1e-5)
