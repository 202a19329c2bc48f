"""A network with batch norm, augmentation on: a step on 8 devices is that of one."""

import jax
import numpy as np
import pytest
from shrinking import batch, make_task, with_batch_norm

from jaxtag.distributed.mesh import make_global_batch, make_mesh
from jaxtag.training.setup import TrainSetup
from jaxtag.training.train_state import TrainState

# Slow: on few cores XLA's CPU devices can wait for each other for ever, one in an all-reduce and
# the others in an exchange that comes before or after it.
pytestmark = pytest.mark.slow


def anywhere(state: TrainState) -> TrainState:
    """`state` with parameters that no gradient leaves alone, as zeros of a head do."""
    rng = np.random.RandomState(0)

    def moved(leaf: jax.Array) -> jax.Array:
        noise = 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)
        return jax.device_put(np.asarray(leaf) + noise, leaf.sharding)

    return state.replace(params=jax.tree.map(moved, state.params))


@pytest.mark.parametrize("groups", [1, 8])
def test_eight_devices_give_the_step_of_one(groups: int) -> None:
    config = with_batch_norm(groups)
    ended = []
    for count in (1, 8):
        mesh = make_mesh(devices=jax.devices()[:count])
        plan = TrainSetup.from_config(config, make_task(config, 10), 64, mesh=mesh)
        rows = batch(config)
        rows["label"] %= 10
        ended.append(plan.step(anywhere(plan.initialize()), make_global_batch(rows, mesh)))
    (one, first), (eight, second) = ended
    np.testing.assert_allclose(first["loss"][0], second["loss"][0], rtol=1e-5)
    for part in ("params", "collections", "ema"):
        leaves = zip(
            jax.tree_util.tree_leaves_with_path(getattr(one, part)),
            jax.tree.leaves(getattr(eight, part)),
            strict=True,
        )
        for (path, expected), got in leaves:
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(got, expected, atol=2e-5 * scale, err_msg=str(path))
    mean = eight.collections["batch_stats"]["stem_norm"]["mean"]
    assert np.any(mean)
    # With a group for each device, its moments lie there alone.
    assert mean.addressable_shards[0].data.shape == ((64,) if groups == 1 else (1, 64))
