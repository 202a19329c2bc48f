"""A network with batch norm, augmentation on: a step on 8 devices is that of one."""

from typing import Any

import jax
import numpy as np
import pytest
from shrinking import batch, with_batch_norm

from jaxtag.parallel import mesh as meshes
from jaxtag.training import experiment
from jaxtag.training.state import State

# Slow: on few cores XLA's CPU devices can wait for each other for ever, one in an all-reduce and
# the others in an exchange that comes before or after it.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]


def anywhere(state: State, seed: int) -> State:
    """`state` with parameters that no gradient leaves alone, as zeros of a head do."""
    rng = np.random.RandomState(seed)

    def moved(leaf: jax.Array) -> jax.Array:
        noise = 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)
        return jax.device_put(np.asarray(leaf) + noise, leaf.sharding)

    return state.replace(params=jax.tree.map(moved, state.params))


PARTS = ("params", "collections", "ema")


def difference(one: Any, other: Any) -> float:
    """The largest between two arrays, in shares of their largest value, or of 1."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / max(1.0, np.abs(a).max()))
        for a, b in pairs
    )


@pytest.mark.parametrize("groups", [1, 8])
def test_eight_devices_give_the_step_of_one(groups: int) -> None:
    config = with_batch_norm(groups)
    plans = []
    for count in (1, 8):
        mesh = meshes.make(devices=jax.devices()[:count])
        plans.append((mesh, experiment.build(config, 10, examples=64, mesh=mesh)))
    rows = batch(config)
    rows["label"] %= 10
    worst = []
    for seed in range(5):
        ended = []
        for mesh, plan in plans:
            state = anywhere(plan.initialize(), seed)
            ended.append(plan.step(state, meshes.to_devices(rows, mesh)))
        (one, first), (eight, second) = ended
        np.testing.assert_allclose(first["loss"][0], second["loss"][0], rtol=1e-5)
        worst.append(max(difference(getattr(one, p), getattr(eight, p)) for p in PARTS))
    # A value that rounding takes over a ReLU's corner changes the gradient by more (1e-4): from
    # one of eight starts on one machine.
    assert sorted(worst)[2] < 1e-6, worst
    assert max(worst) < 1e-3, worst
    mean = eight.collections["batch_stats"]["stem_norm"]["mean"]
    assert np.any(mean)
    # With a group for each device, its moments lie there alone.
    assert mean.addressable_shards[0].data.shape == ((64,) if groups == 1 else (1, 64))
