"""Optimisers by name, with rules for each parameter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag.config.schema import OptimizerConfig
from jaxtag.errors import UsageError
from jaxtag.training import optimizer

EVERYTHING = ((".*", 1.0),)


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Five quintic iterations towards the nearest orthogonal matrix, in float64."""
    x = np.asarray(matrix, np.float64)
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / np.linalg.norm(x)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def first_update(config: OptimizerConfig, gradients: dict) -> dict:
    params = jax.tree.map(jnp.zeros_like, gradients)
    transformation = optimizer.make_optimizer(
        config, optax.constant_schedule(config.learning_rate), params
    )
    return transformation.update(gradients, transformation.init(params), params)[0]


def test_muon_orthogonalises_each_matrix_of_a_layer():
    """Jordan et al. 2024: kernels by part, by scanned layer, convolutions flattened; no others."""
    rng = np.random.default_rng(0)
    shapes = {
        "fc/kernel": (8, 12),
        "qkv/kernel": (8, 3, 8),
        "blocks/qkv/kernel": (2, 8, 3, 8),
        "blocks/fc/kernel": (2, 8, 12),
        "conv_0_kernel": (3, 3, 4, 8),
        "pointwise/kernel": (1, 1, 4, 8),
        "depthwise/kernel": (3, 3, 1, 8),
        "head/kernel": (8, 12),
        "classes/kernel": (6, 4, 3, 5),
        "token_embed": (9, 8),
        "fc/bias": (12,),
    }
    gradients = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    config = OptimizerConfig(name="muon", learning_rate=1.0, grad_clip_norm=None)
    updates = first_update(config, gradients)

    def check(update: jax.Array, gradient: jax.Array) -> None:
        # The factor gives the update the root mean square that Adam's have.
        expected = -0.2 * np.sqrt(max(gradient.shape)) * newton_schulz(gradient)
        np.testing.assert_allclose(update, expected, atol=1e-4)

    check(updates["fc/kernel"], gradients["fc/kernel"])
    for part in range(3):
        check(updates["qkv/kernel"][:, part], gradients["qkv/kernel"][:, part])
        for layer in range(2):
            name = "blocks/qkv/kernel"
            check(updates[name][layer, :, part], gradients[name][layer, :, part])
    for layer in range(2):
        check(updates["blocks/fc/kernel"][layer], gradients["blocks/fc/kernel"][layer])
    for name in ("conv_0_kernel", "pointwise/kernel"):
        check(updates[name].reshape(-1, 8), gradients[name].reshape(-1, 8))
    for name in ("token_embed", "fc/bias", "depthwise/kernel", "head/kernel", "classes/kernel"):
        # The first step of Adam with Nesterov's momentum (Dozat 2016): 0.1 + 0.9 * 0.1 of the
        # gradient, each with its bias corrected.
        factor = 1 + 0.9 * 0.1 / (1 - 0.9**2)
        np.testing.assert_allclose(updates[name], -factor * np.sign(gradients[name]), rtol=1e-4)


@pytest.mark.parametrize(
    ("stored_name", "name", "kwargs"),
    [
        ("sgd", "sgd", {"momentum": 0.9}),
        ("nesterov", "sgd", {"momentum": 0.9, "nesterov": True}),
        ("adamw", "adamw", {"b2": 0.98}),
        ("lamb", "lamb", {}),
    ],
)
def test_steps_equal_torch_and_timm(stored_name, name, kwargs):
    """Rates that change, decay of the kernel alone (benchmarks/make_optimizer_references.py)."""
    stored = load_file(REFERENCES / "optimizers.safetensors")
    params = {part: jnp.asarray(stored[f"start/{part}"]) for part in ("kernel", "bias")}
    config = OptimizerConfig(name=name, kwargs=kwargs, weight_decay=0.05, grad_clip_norm=None)
    rates = jnp.asarray(stored["rates"])
    transformation = optimizer.make_optimizer(config, lambda step: rates[step], params)
    state, update = transformation.init(params), jax.jit(transformation.update)
    for step in range(len(rates)):
        gradients = {part: stored[f"gradients/{part}"][step] for part in params}
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for part, value in params.items():
            np.testing.assert_allclose(value, stored[f"{stored_name}/{part}"][step], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("adamw", {}),
        ("lamb", {}),
        ("lion", {}),
        ("muon", {}),
    ],
)
def test_rules_freeze_scale_and_decay(name, kwargs):
    gradients = {"a": {"kernel": jnp.ones((4, 4))}, "b": {"kernel": jnp.ones((4, 4))}}
    config = OptimizerConfig(
        name=name,
        kwargs=kwargs,
        learning_rate=0.1,
        lr_mults=(("^a/", 0.0), (".*", 0.5)),
        wd_mults=EVERYTHING,
        grad_clip_norm=None,
    )
    full = dataclasses.replace(config, lr_mults=EVERYTHING)
    updates, full_updates = first_update(config, gradients), first_update(full, gradients)
    np.testing.assert_array_equal(updates["a"]["kernel"], 0)
    np.testing.assert_allclose(updates["b"]["kernel"], full_updates["b"]["kernel"] / 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "lamb", "muon"])
def test_layer_wise_rates_and_freezing_of_a_network_with_batch_norm(name):
    """Rules by path: decay of kernels alone, 0.5 a stage towards the input, a frozen stem."""
    shapes = {
        "stem/kernel": (3, 3, 3, 8),
        "stage1/conv/kernel": (3, 3, 8, 8),
        "stage1/depthwise/kernel": (3, 3, 1, 8),
        "stage1/norm/scale": (8,),
        "stage1/norm/bias": (8,),
        "head/kernel": (8, 4),
    }
    params = {path: jnp.ones(shape) for path, shape in shapes.items()}
    config = OptimizerConfig(
        name=name,
        weight_decay=0.5,
        lr_mults=(("^stem/", 0.0), ("^stage1/", 0.5), (".*", 1.0)),
        grad_clip_norm=None,
    )
    transformation = optimizer.make_optimizer(config, optax.constant_schedule(0.1), params)
    state = transformation.init(params)
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transformation.update(nothing, state, params)
    for path in ("stem/kernel", "stage1/norm/scale", "stage1/norm/bias"):
        np.testing.assert_array_equal(updates[path], 0)
    # LAMB scales what decay alone asks for to the norm of the parameters.
    step = 0.1 if name == "lamb" else 0.1 * 0.5
    np.testing.assert_allclose(updates["head/kernel"], -step, rtol=1e-5)
    for path in ("stage1/conv/kernel", "stage1/depthwise/kernel"):
        np.testing.assert_allclose(updates[path], -step / 2, rtol=1e-5)
    moments = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert (3, 3, 3, 8) not in moments


def test_weight_decay_follows_its_rules():
    params = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    for name in ("sgd", "adamw", "muon"):
        config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.5)
        transformation = optimizer.make_optimizer(config, optax.constant_schedule(0.1), params)
        nothing = jax.tree.map(jnp.zeros_like, params)
        updates, _ = transformation.update(nothing, transformation.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5, rtol=1e-5)
        np.testing.assert_array_equal(updates["bias"], 0)


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        # Step: factor of the learning rate. Airbench's triangle in 100 steps.
        ("triangular", 0, {0: 0.2, 11.5: 0.6, 23: 1.0, 61.5: 0.535, 100: 0.07, 150: 0.07}),
        ("triangular", 50, {0: 0.2, 25: 0.6, 50: 1.0, 75: 0.535, 100: 0.07}),
        ("one_cycle", 0, {0: 0.04, 15: 0.52, 30: 1.0, 65: 0.535, 100: 0.07}),
        ("one_cycle", 10, {0: 0.04, 5: 0.52, 10: 1.0, 55: 0.535, 100: 0.07}),
        ("linear", 10, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.535, 100: 0.07}),
        ("cosine", 10, {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.535, 100: 0.07}),
    ],
)
def test_schedules(name, warmup, expected):
    config = OptimizerConfig(
        schedule=name, learning_rate=3.0, warmup_steps=warmup, min_lr_ratio=0.07
    )
    rate = optimizer.make_lr_schedule(config, 100, 10)
    for step, factor in expected.items():
        np.testing.assert_allclose(rate(step), 3.0 * factor, rtol=1e-5)


def test_one_cycle_is_that_of_optax_and_ends_at_0_if_asked():
    config = OptimizerConfig(schedule="one_cycle", learning_rate=2.0, min_lr_ratio=0.01)
    rate = optimizer.make_lr_schedule(config, 100, 10)
    theirs = optax.cosine_onecycle_schedule(100, 2.0, final_div_factor=4)
    steps = np.arange(101)
    np.testing.assert_allclose(jax.vmap(rate)(steps), jax.vmap(theirs)(steps), rtol=1e-5)
    for steps in (1, 2, 100):
        ended = optimizer.make_lr_schedule(dataclasses.replace(config, min_lr_ratio=0.0), steps, 10)
        assert np.isfinite(ended(0))
        assert ended(max(steps, 2)) == 0


def test_wrong_settings_are_named():
    params = {"kernel": jnp.ones((2, 2))}
    for settings, message in (
        ({"name": "adamv"}, "adamv"),
        ({"kwargs": {"b3": 0.9}}, "b3"),
        ({"lr_mults": (("nothing", 1.0),)}, r"lr_mults: no rule covers the parameter kernel"),
    ):
        with pytest.raises(UsageError, match=message):
            optimizer.make_optimizer(
                OptimizerConfig(**settings), optax.constant_schedule(0.1), params
            )
