"""Moving averages beside plain NumPy readings of what they are."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtag.training import ema


def walk(update, steps: int):
    """Parameters that move by one a step, and their average, after each step."""
    new, average, seen = {"x": jnp.zeros(())}, {"x": jnp.zeros(())}, []
    for step in range(steps):
        new = {"x": new["x"] + 1}
        new, average = jax.jit(update)(jnp.asarray(step), new, average)
        seen.append((float(new["x"]), float(average["x"])))
    return seen


def test_moving_average_warms_up_and_leaves_training_alone():
    expected, average = [], 0.0
    for step in range(20):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * (step + 1)
        expected.append((step + 1, average))
    np.testing.assert_allclose(walk(ema.ema(0.9), 20), expected, rtol=1e-5)


def test_lookahead_goes_on_from_the_average():
    fast = slow = 0.0
    expected = []
    for step in range(1, 21):
        fast += 1
        if step % 5 == 0:
            decay = 0.95**5 * (step / 20) ** 3
            slow = fast = decay * slow + (1 - decay) * fast
        expected.append((fast, slow))
    np.testing.assert_allclose(walk(ema.lookahead(0.95, 5, 20), 20), expected, rtol=1e-5)


def test_without_an_average_nothing_changes():
    assert ema.no_average(jnp.asarray(0), {"x": 1}, None) == ({"x": 1}, None)
