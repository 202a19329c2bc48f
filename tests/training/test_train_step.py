"""The step around a task: what is not trained costs nothing and stays as it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtag.config.schema import OptimizerConfig
from jaxtag.tasks.base import LossOutput
from jaxtag.training import ema, optimizer, train_step
from jaxtag.training.train_state import TrainState

SIZE, ROWS = 64, 16


@dataclasses.dataclass
class TwoLayers:
    """A task of two products and a squared error."""

    def loss(self, variables, batch, key):
        hidden = jnp.tanh(batch["x"] @ variables["params"]["first"]["kernel"])
        error = jnp.square(hidden @ variables["params"]["second"]["kernel"]).sum(-1)
        ones = jnp.ones(len(error))
        return LossOutput(error, ones, {"loss": (error.sum(), ones.sum())}, {})


def plan(lr_mults, **fields):
    key = jax.random.key(0)
    kernels = jax.random.normal(key, (2, SIZE, SIZE)) / 8
    params = {"first": {"kernel": kernels[0]}, "second": {"kernel": kernels[1]}}
    config = OptimizerConfig(name="sgd", learning_rate=0.1, grad_clip_norm=None, lr_mults=lr_mults)
    rate = optax.constant_schedule(0.1)
    transformation = optimizer.make_optimizer(config, rate, params)
    state = TrainState.create(
        {"params": params}, key, transformation, "float32" if "average" in fields else None
    )
    trainable = optimizer.trainable_mask(config, params)
    return state, jax.jit(
        train_step.make_train_step(TwoLayers(), transformation, rate, trainable=trainable, **fields)
    )


def batch():
    x = np.random.default_rng(0).normal(size=(ROWS, SIZE)).astype(np.float32)
    return {"x": x, "broken": np.zeros(ROWS, bool)}


@pytest.mark.parametrize("parts", [1, 4])
def test_what_is_frozen_stays_and_its_gradient_is_not_computed(parts):
    frozen = (("^first/", 0.0), (".*", 1.0))
    state, run = plan(frozen, grad_accum_steps=parts)
    full_state, run_full = plan(((".*", 1.0),), grad_accum_steps=parts)
    changed, metrics = run(state, batch())
    expected, expected_metrics = run_full(full_state, batch())
    first, second = (changed.params[name]["kernel"] for name in ("first", "second"))
    np.testing.assert_array_equal(first, state.params["first"]["kernel"])
    np.testing.assert_allclose(second, expected.params["second"]["kernel"], rtol=1e-5, atol=1e-6)
    assert float(metrics["grad_norm"][0]) < float(expected_metrics["grad_norm"][0])
    if parts == 1:
        products = 2 * ROWS * SIZE**2

        def flops(run, state):
            return run.lower(state, batch()).compile().cost_analysis()["flops"]

        # Of five products the two of the frozen kernel's gradient are gone.
        assert flops(run_full, full_state) > 5 * products > 4 * products > flops(run, state)


def test_training_goes_on_from_the_average_of_lookahead():
    rules = ((".*", 1.0),)
    state, run = plan(rules, average=ema.lookahead(0.9, 2, 4))
    once, _ = run(state, batch())
    twice, _ = run(once, batch())
    plain, run_plain = plan(rules)
    plain, _ = run_plain(plain, batch())
    plain, _ = run_plain(plain, batch())
    start, end = (s.params["first"]["kernel"] for s in (state, plain))
    np.testing.assert_array_equal(once.ema["params"]["first"]["kernel"], start)
    decay = 0.9**2 * (2 / 4) ** 3
    expected = decay * start + (1 - decay) * end
    for params in (twice.params, twice.ema["params"]):
        np.testing.assert_allclose(params["first"]["kernel"], expected, rtol=1e-4, atol=1e-5)
