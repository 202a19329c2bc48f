"""ViT and the captioner against transformers, with the same weights (stored reference outputs)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag.models import Captioner, Decoder, ViT
from jaxtag.weights import param_mapping
from jaxtag.weights.mappings import captioner, vit

VIT = {"patch_size": 8, "width": 24, "depth": 2, "heads": 2, "mlp_dim": 40, "image_size": 32}


def under(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix + "/"): v for k, v in tensors.items() if k.startswith(prefix)}


def vit_params(tensors: dict[str, np.ndarray], model: ViT):
    return param_mapping.to_variables(tensors, vit.encoder(model, "", ""))["params"]


def captioner_params(tensors: dict[str, np.ndarray], model: Captioner):
    return param_mapping.to_variables(tensors, captioner.transformers(model))["params"]


def assert_trees_close(results, expected, tolerance: float) -> None:
    """Same paths; each leaf close relative to its largest element."""
    assert jax.tree.structure(results) == jax.tree.structure(jax.tree.map(jnp.asarray, expected))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(results), jax.tree.leaves(expected), strict=True
    ):
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, atol=tolerance * scale, err_msg=str(path))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("size", ["32x32", "40x24", "37x51"])
def test_vit_equals_transformers_at_any_size(size: str, scan: bool) -> None:
    stored = load_file(REFERENCES / "vit.safetensors")
    model = ViT(**VIT, scan=scan)
    params = vit_params(under(stored, "weights"), model)

    def loss(params):
        features = model.apply({"params": params}, stored[f"images/{size}"])["features"]
        return (features * stored[f"factors/{size}"]).mean(), features

    (_, features), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(features, stored[f"features/{size}"], atol=1e-4)
    expected = vit_params(under(stored, f"gradients/{size}"), model)
    assert_trees_close(gradients, expected, 1e-5)


@pytest.mark.parametrize(
    ("width", "scan"),
    [
        (16, False),
        pytest.param(16, True, marks=pytest.mark.slow),
        pytest.param(24, False, marks=pytest.mark.slow),
        (24, True),
    ],
)
def test_captioner_equals_vision_encoder_decoder(width: int, scan: bool) -> None:
    """Width 16 has the projection between encoder and decoder, width 24 has none."""
    stored = load_file(REFERENCES / f"captioner_{width}.safetensors")
    decoder = Decoder(37, 12, width, depth=2, heads=2, mlp_dim=3 * width, scan=scan)
    model = Captioner(ViT(**VIT, scan=scan), decoder)
    params = captioner_params(under(stored, "weights"), model)
    assert ("memory_proj" in params) == (width == 16)
    tokens = stored["tokens"]

    def loss(params):
        logits = model.apply({"params": params}, stored["images"], tokens[..., :-1])["logits"]
        labels = tokens[..., 1:]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(where=labels != 0), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(logits, stored["logits"], atol=1e-4)
    np.testing.assert_allclose(value, stored["loss"], atol=1e-5)
    expected = captioner_params(under(stored, "gradients"), model)
    assert_trees_close(gradients, expected, 1e-5)


def test_missing_tensor_is_named() -> None:
    stored = under(load_file(REFERENCES / "vit.safetensors"), "weights")
    del stored["encoder.layer.1.output.dense.bias"]
    with pytest.raises(KeyError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        vit_params(stored, ViT(**VIT))
