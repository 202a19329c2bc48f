"""Text encoders and the two towers: what is pooled, what padding changes, wrong use."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag.models import ImageText, TextEncoder, ViT

pytestmark = pytest.mark.usefixtures("fused_as_usual")

TEXT = {"vocab_size": 30, "max_length": 8, "width": 16, "depth": 2, "heads": 2, "mlp_dim": 24}
IMAGE = {"patch_size": 8, "width": 12, "depth": 1, "heads": 2, "mlp_dim": 24, "image_size": 16}
CLIP_TOKENS = np.array([[28, 5, 6, 29, -1, -1], [28, 7, 29, 3, 9, 9], [28, 1, 2, 3, 4, 5]])
CLIP_TEXT = TextEncoder(**TEXT, eos_id=29, activation="quick_gelu")


def random_variables(model: nn.Module, *inputs: np.ndarray) -> dict:
    """Variables without a compiled initialization."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda s: generator.normal(0, 0.3, s.shape).astype(np.float32), shapes)


def test_eos_is_pooled_and_nothing_after_it_counts() -> None:
    variables = random_variables(CLIP_TEXT, CLIP_TOKENS)
    apply = jax.jit(CLIP_TEXT.apply)
    outputs = apply(variables, CLIP_TOKENS)
    assert outputs["features"].shape == (3, 6, 16)
    for row, position in enumerate((3, 2, 5)):  # the last row has none: its last position
        np.testing.assert_array_equal(
            outputs["pooled"][row], outputs["features"][row, position], err_msg=str(row)
        )
    others = CLIP_TOKENS.copy()
    others[0, 4:], others[1, 3:] = 17, -1
    np.testing.assert_allclose(
        apply(variables, others)["pooled"][:2], outputs["pooled"][:2], atol=1e-6
    )
    others[0, 1] = 8
    difference = apply(variables, others)["pooled"][0] - outputs["pooled"][0]
    assert np.abs(difference).max() > 1e-3


def test_the_mean_is_over_the_tokens_of_a_text() -> None:
    encoder = TextEncoder(**{**TEXT, "depth": 0}, pool="mean")
    tokens = np.array([[1, 5, 7, -1], [1, 5, -1, -1], [-1, -1, -1, -1]])
    outputs = jax.jit(encoder.apply)(random_variables(encoder, tokens), tokens)
    features = outputs["features"]
    np.testing.assert_allclose(outputs["pooled"][0], features[0, :3].mean(0), atol=1e-6)
    np.testing.assert_allclose(outputs["pooled"][1], features[1, :2].mean(0), atol=1e-6)
    np.testing.assert_array_equal(outputs["pooled"][2], 0)


def test_bidirectional_text_is_pooled_at_its_last_position() -> None:
    encoder = TextEncoder(**TEXT, causal=False, pool="last", activation="gelu_tanh", scan=True)
    tokens = np.array([[5, 6, 1, 1], [7, 8, 9, 1]])
    variables = random_variables(encoder, tokens)
    apply = jax.jit(encoder.apply)
    outputs = apply(variables, tokens)
    np.testing.assert_array_equal(outputs["pooled"], outputs["features"][:, -1])
    tokens[1, 3] = 2
    changed = apply(variables, tokens)["features"]
    assert np.abs(changed[1, 0] - outputs["features"][1, 0]).max() > 1e-4  # sees what follows
    np.testing.assert_allclose(changed[0], outputs["features"][0], atol=1e-6)


@pytest.mark.parametrize("sigmoid", [False, True], ids=["clip", "siglip"])
def test_two_towers_meet_in_one_space(sigmoid: bool) -> None:
    """Shapes alone: tests/weights/test_image_text_weights.py has the values of other libraries."""
    fields = {"embed_dim": 12}
    if sigmoid:
        fields |= {"image_projection": False, "projection_bias": True, "init_logit_bias": -10.0}
    model = ImageText(ViT(**IMAGE), CLIP_TEXT, **fields)
    images = jnp.zeros((2, 16, 16, 3))
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), images, CLIP_TOKENS
    )
    shapes = {name: leaf.shape for name, leaf in outputs.items()}
    assert shapes == {"image_embedding": (2, 12), "text_embedding": (3, 12), "logits": (2, 3)}
    params = variables["params"]
    assert ("project_image" in params) != sigmoid
    assert ("bias" in params["project_text"]) == sigmoid == ("logit_bias" in params)


def test_logits_start_at_the_scale_and_bias_of_the_paper() -> None:
    fields = {"init_logit_scale": 10.0, "init_logit_bias": -10.0}
    model = ImageText(ViT(**IMAGE), CLIP_TEXT, embed_dim=12, **fields)
    unit = np.eye(12, dtype=np.float32)[:2]
    logits, _ = model.init_with_output(jax.random.key(0), unit, unit, method="logits")
    np.testing.assert_allclose(logits, [[0, -10], [-10, 0]], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "pool must be"),
        ({"eos_id": 29, "pool": "max"}, "pool must be"),
        ({"eos_id": 29, "max_length": 5}, "6 tokens are more than"),
        ({"eos_id": 29, "heads": 3}, "multiple of heads"),
        ({"eos_id": 29, "activation": "relu"}, "activation must be one of gelu, gelu_tanh"),
    ],
)
def test_wrong_use(fields: dict, complaint: str) -> None:
    encoder = TextEncoder(**{**TEXT, **fields})
    with pytest.raises(ValueError, match=complaint):
        jax.eval_shape(encoder.init, jax.random.key(0), CLIP_TOKENS)


def test_the_published_sizes() -> None:
    """CLIP ViT-B/32's text tower has 63.4 million parameters, of which the projection 0.26."""
    encoder = TextEncoder(49408, 77, 512, 12, 8, 2048, eos_id=49407)
    tokens = jnp.zeros((1, 77), jnp.int32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), tokens)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 63_428_096 - 512 * 512
