"""Losses of classification: cross-entropy with smoothed targets, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag.errors import UsageError
from jaxtag.losses import classification

LOGITS = jnp.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
TARGETS = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.25, 0.75]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_is_the_cross_entropy_of_smoothed_targets(smoothing) -> None:
    loss = classification.make_loss("softmax", {})
    smoothed = (1 - smoothing) * np.asarray(TARGETS) + smoothing / 3
    logits = np.asarray(LOGITS, np.float64)
    expected = -(smoothed * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)
    np.testing.assert_allclose(loss(LOGITS, TARGETS, smoothing), expected, rtol=1e-6)
    assert loss(LOGITS.astype(jnp.bfloat16), TARGETS, smoothing).dtype == jnp.float32


def test_margin_takes_capsule_lengths() -> None:
    lengths = jax.nn.sigmoid(LOGITS)
    expected = classification.margin_loss(lengths, TARGETS)
    np.testing.assert_array_equal(
        classification.make_loss("margin", {})(lengths, TARGETS, 0.1), expected
    )


def test_a_wrong_name_or_argument_is_named() -> None:
    with pytest.raises(UsageError, match=r"config.task.loss = 'softmx': .*did you mean softmax"):
        classification.make_loss("softmx", {})
    with pytest.raises(UsageError, match="softmax has no argument 'label_smoothing'"):
        classification.make_loss("softmax", {"label_smoothing": 0.1})
