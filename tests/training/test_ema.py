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


def test_an_average_in_bfloat16_follows_that_in_float32():
    # Each step moves it by less than half of its last place: rounding to the nearest never would.
    update = jax.jit(ema.ema(0.999))
    new = {"params": jnp.full(4096, 1.5)}
    averages = {dtype: {"params": jnp.ones(4096, dtype)} for dtype in ("float32", "bfloat16")}
    for step in range(20_000, 20_200):
        for dtype, average in averages.items():
            averages[dtype] = update(jnp.asarray(step), new, average)[1]
    exact, rounded = (np.asarray(averages[d]["params"], np.float64) for d in averages)
    assert averages["bfloat16"]["params"].dtype == jnp.bfloat16
    assert 1.08 < exact[0] < 1.10
    np.testing.assert_allclose(rounded.mean(), exact[0], atol=2e-3)


def test_what_is_not_finite_stays_so():
    x = jnp.asarray([np.inf, -np.inf, np.nan, 3.0, -0.0], jnp.float32)
    rounded = ema.round_stochastically(x, jnp.bfloat16, jnp.asarray(1), 0)
    np.testing.assert_array_equal(np.asarray(rounded, np.float32), x)
