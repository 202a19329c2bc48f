"""Losses of tagging: equal to their equations in float64, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag import registry
from jaxtag.errors import UsageError
from jaxtag.losses import multilabel

REFERENCE = load_file(REFERENCES / "tagging.safetensors")
LOGITS, LABELS = (jnp.asarray(REFERENCE[name], jnp.float32) for name in ("logits", "labels"))


def cost(name: str, arguments: dict[str, float], logits: jax.Array) -> jax.Array:
    present, absent = multilabel.make_loss(name, arguments)(logits)
    return LABELS * present + (1 - LABELS) * absent


@pytest.mark.parametrize(
    "reference, name, arguments",
    [
        ("asymmetric", "asymmetric", {}),
        ("asymmetric_both", "asymmetric", {"gamma_neg": 3.0, "gamma_pos": 1.0, "clip": 0.0}),
        ("focal", "focal", {}),
        ("binary_cross_entropy", "binary_cross_entropy", {}),
    ],
)
def test_losses_equal_their_equations(reference, name, arguments) -> None:
    costs, backward = jax.vjp(lambda logits: cost(name, arguments, logits), LOGITS)
    np.testing.assert_allclose(costs, REFERENCE[reference], rtol=2e-5, atol=1e-6)
    gradient = backward(jnp.ones_like(costs))[0]
    np.testing.assert_allclose(gradient, REFERENCE[f"{reference}_gradient"], rtol=2e-5, atol=1e-6)


def test_losses_equal_those_of_optax() -> None:
    costs = cost("binary_cross_entropy", {}, LOGITS)
    np.testing.assert_allclose(costs, optax.sigmoid_binary_cross_entropy(LOGITS, LABELS), rtol=1e-5)
    costs = cost("focal", {"gamma": 1.5, "alpha": 0.4}, LOGITS)
    expected = optax.sigmoid_focal_loss(LOGITS, LABELS, alpha=0.4, gamma=1.5)
    np.testing.assert_allclose(costs, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", registry.names("multilabel_loss"))
def test_extreme_logits_keep_finite_gradients(name) -> None:
    arguments = {"asymmetric": {"gamma_neg": 0.5, "gamma_pos": 0.5}, "focal": {"gamma": 0.5}}
    loss = multilabel.make_loss(name, arguments.get(name, {}))
    logits = jnp.array([-200.0, -30.0, 0.0, 30.0, 200.0])
    gradients = jax.jacrev(loss)(logits)
    assert all(np.isfinite(each).all() for each in (*loss(logits), *gradients))


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(UsageError, match=r"config.task.loss_kwargs: focal .*'gama'.*gamma"):
        multilabel.make_loss("focal", {"gama": 1.0})
    with pytest.raises(UsageError, match="binary_cross_entropy has no argument 'gamma'"):
        multilabel.make_loss("binary_cross_entropy", {"gamma": 1.0})


def test_positive_weights_are_ratios_within_their_limits() -> None:
    counts = np.array([0, 1, 20, 50, 90])
    np.testing.assert_allclose(multilabel.positive_weights(counts, 100, 30.0), [30, 30, 4, 1, 1])
