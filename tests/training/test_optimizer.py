"""Optimisers by name, with rules for each parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtag.config import OptimizerConfig
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
    made = optimizer.make(config, optax.constant_schedule(config.learning_rate), params)
    return made.update(gradients, made.init(params), params)[0]


def test_muon_orthogonalises_each_matrix_of_a_layer():
    """Jordan et al. 2024: kernels by part, by scanned layer, convolutions flattened; no others."""
    rng = np.random.default_rng(0)
    shapes = {
        "fc/kernel": (8, 12),
        "qkv/kernel": (8, 3, 8),
        "blocks/qkv/kernel": (2, 8, 3, 8),
        "blocks/fc/kernel": (2, 8, 12),
        "conv_0_kernel": (3, 3, 4, 8),
        "token_embed": (9, 8),
        "fc/bias": (12,),
    }
    gradients = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    config = OptimizerConfig(name="muon", learning_rate=1.0, clip_norm=None)
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
    name = "conv_0_kernel"
    check(updates[name].reshape(36, 8), gradients[name].reshape(36, 8))
    for name in ("token_embed", "fc/bias"):
        # The first step of Adam with Nesterov's momentum (Dozat 2016): 0.1 + 0.9 * 0.1 of the
        # gradient, each with its bias corrected.
        factor = 1 + 0.9 * 0.1 / (1 - 0.9**2)
        np.testing.assert_allclose(updates[name], -factor * np.sign(gradients[name]), rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "lion", "muon"])
def test_rules_freeze_scale_and_decay(name):
    gradients = {"a": {"kernel": jnp.ones((4, 4))}, "b": {"kernel": jnp.ones((4, 4))}}
    config = OptimizerConfig(
        name=name,
        learning_rate=0.1,
        rate_rules=(("^a/", 0.0), (".*", 0.5)),
        decay_rules=EVERYTHING,
        clip_norm=None,
    )
    full = OptimizerConfig(name=name, learning_rate=0.1, decay_rules=EVERYTHING, clip_norm=None)
    updates, whole = first_update(config, gradients), first_update(full, gradients)
    np.testing.assert_array_equal(updates["a"]["kernel"], 0)
    np.testing.assert_allclose(updates["b"]["kernel"], whole["b"]["kernel"] / 2, rtol=1e-6)


def test_weight_decay_follows_its_rules():
    params = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    for name in ("sgd", "adamw", "muon"):
        config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.5)
        made = optimizer.make(config, optax.constant_schedule(0.1), params)
        nothing = jax.tree.map(jnp.zeros_like, params)
        updates, _ = made.update(nothing, made.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5, rtol=1e-5)
        np.testing.assert_array_equal(updates["bias"], 0)


def test_wrong_settings_are_named():
    params = {"kernel": jnp.ones((2, 2))}
    for settings, message in (
        ({"name": "adamv"}, "adamv"),
        ({"arguments": (("b3", 0.9),)}, "b3"),
        ({"rate_rules": (("nothing", 1.0),)}, r"rate_rules: no rule covers the parameter kernel"),
    ):
        with pytest.raises(UsageError, match=message):
            optimizer.make(OptimizerConfig(**settings), optax.constant_schedule(0.1), params)
