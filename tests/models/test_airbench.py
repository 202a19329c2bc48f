"""The airbench network against PyTorch, and how it starts: whitening, identities."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag import models
from jaxtag.models.airbench import (
    CIFAR_MEAN,
    CIFAR_STD,
    Airbench94,
    partial_identity,
    whitening_kernel,
)
from jaxtag.weights import param_mapping

NARROW = Airbench94(widths=(10, 26, 14), num_classes=5)


def our_table(moments: bool) -> param_mapping.Table:
    entries = param_mapping.conv("whiten", "whiten", bias=True)
    for group in ("group1", "group2", "group3"):
        for index in (1, 2):
            norm = param_mapping.batch_norm(f"{group}/norm{index}", f"{group}.norm{index}")
            del norm[f"params/{group}/norm{index}/scale"]
            entries |= param_mapping.conv(f"{group}/conv{index}", f"{group}.conv{index}") | norm
    entries |= {"params/head/kernel": ("linear", "head.weight")}
    return {k: v for k, v in entries.items() if moments or k.startswith("params")}


def jaxtag_variables(tensors: dict[str, np.ndarray], prefix: str, moments: bool = True):
    tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return param_mapping.to_variables(tensors, our_table(moments))


def assert_trees_close(results, expected, tolerance: float) -> None:
    assert jax.tree.structure(results) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("size", ["32x32", "37x51"])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_network_equals_pytorch(size: str, remat: str) -> None:
    stored = load_file(REFERENCES / "speednet.safetensors")
    model, variables = NARROW.copy(remat=remat), jaxtag_variables(stored, "weights/")
    images = stored[f"{size}/images"]
    results = jax.jit(model.apply)(variables, images)["logits"]
    np.testing.assert_allclose(results, stored[f"{size}/inference"], atol=1e-4)

    def loss(params):
        updated = variables | {"params": params}
        outputs, after = model.apply(updated, images, train=True, mutable=["batch_stats"])
        targets = optax.smooth_labels(jax.nn.one_hot(stored[f"{size}/labels"], 5), 0.2)
        losses = optax.softmax_cross_entropy(outputs["logits"], targets)
        return losses.mean(), (outputs["logits"], after)

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (logits, after)), gradients = differentiate(variables["params"])
    np.testing.assert_allclose(logits, stored[f"{size}/training"], atol=1e-4)
    np.testing.assert_allclose(value, stored[f"{size}/loss"], atol=1e-5)
    expected = jaxtag_variables(stored, f"{size}/gradients/", moments=False)["params"]
    assert_trees_close(gradients, expected, 1e-4)
    moments = jaxtag_variables(stored, f"{size}/after/")["batch_stats"]
    assert_trees_close(after["batch_stats"], moments, 1e-5)


def random_images(count: int = 64) -> np.ndarray:
    """Smooth noise, whose neighbouring pixels and channels depend on each other."""
    noise = np.random.RandomState(0).standard_normal((count, 13, 12, 3))
    noise = noise[:, 1:] + 0.7 * noise[:, :-1] + 0.5 * noise.mean(-1, keepdims=True)[:, 1:]
    return np.clip(128 + 40 * noise, 0, 255).astype(np.uint8)


def test_whitened_patches_are_uncorrelated() -> None:
    images = random_images()
    normalized = (images / np.float32(255) - np.float32(CIFAR_MEAN)) / np.float32(CIFAR_STD)
    kernel = whitening_kernel(images)
    assert kernel.shape == (2, 2, 3, 24) and kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    outputs = jax.lax.conv_general_dilated(
        normalized, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    flat = np.asarray(outputs, np.float64).reshape(-1, 24)[:, :12]
    moments = flat.T @ flat / len(flat)
    variances = 1 / np.square(kernel.reshape(12, 24)[:, :12]).sum(0) - 5e-4
    np.testing.assert_allclose(moments, np.diag(variances / (variances + 5e-4)), atol=1e-3)
    assert (np.diff(variances) <= 0).all()


def test_whitening_takes_bytes_and_floats() -> None:
    images = random_images(8)
    kernel = whitening_kernel(images, mean=(0.5,) * 3, std=(0.25,) * 3)
    np.testing.assert_array_equal(kernel, whitening_kernel((images / np.float32(255) - 0.5) / 0.25))
    assert np.abs(kernel - whitening_kernel(images)).max() > 0.1


@pytest.mark.parametrize("inputs, outputs", [(4, 9), (6, 6), (7, 3)])
def test_the_first_outputs_start_as_the_inputs(inputs: int, outputs: int) -> None:
    kernel = partial_identity(jax.random.key(0), (3, 3, inputs, outputs))
    x = jax.random.normal(jax.random.key(1), (1, 5, 5, inputs))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    same = min(inputs, outputs)
    np.testing.assert_array_equal(y[..., :same], x[..., :same])
    rest = np.abs(kernel[..., same:])
    bound = (9 * inputs) ** -0.5
    assert rest.size == 0 or 0.8 * bound < rest.max() <= bound


def test_the_network_is_the_papers() -> None:
    model = models.create_model("airbench94", num_classes=10)
    outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), jnp.zeros((2, 32, 32, 3))
    )
    assert outputs["features"].shape == (2, 3, 3, 256)
    assert outputs["pooled"].shape == (2, 256) and outputs["logits"].shape == (2, 10)
    convolutions = 24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == (
        12 * 24 + 24 + 9 * convolutions + 2 * (64 + 256 + 256) + 256 * 10
    )
    assert "scale" not in variables["params"]["group1"]["norm1"]


def test_bfloat16_and_groups_of_a_batch() -> None:
    model = Airbench94(widths=(4, 6), num_classes=3, dtype=jnp.bfloat16, norm_groups=2)
    images = jax.random.normal(jax.random.key(0), (4, 11, 11, 1))
    variables = model.init(jax.random.key(1), images)
    assert variables["batch_stats"]["group1"]["norm1"]["mean"].shape == (2, 4)

    def loss(params):
        updated = variables | {"params": params}
        outputs, _ = model.apply(updated, images, train=True, mutable=["batch_stats"])
        assert outputs["features"].dtype == jnp.bfloat16
        assert outputs["logits"].dtype == jnp.float32
        return jnp.square(outputs["logits"] - 1).sum()

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"]))
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


def test_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="9x9 pixels, got 8x32"):
        Airbench94().init(jax.random.key(0), jnp.zeros((1, 8, 32, 3)))
