"""CapsNet, its routing and its loss: against PyTorch, NumPy in float64, and central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag import models
from jaxtag.kernels import layers
from jaxtag.losses.classification import margin_loss
from jaxtag.models import capsnet
from jaxtag.models.capsnet import CapsNet
from jaxtag.models.routing import length, route, squash
from jaxtag.weights import param_mapping

NARROW = {
    "num_classes": 5,
    "reconstruct": True,
    "channels": 12,
    "types": 3,
    "primary_size": 4,
    "class_size": 6,
    "decoder": (14, 18),
}


def plain_route(votes: np.ndarray, iterations: int) -> np.ndarray:
    """Procedure 1 of the paper, word by word, in float64."""
    b = np.zeros(votes.shape[:3])
    for _ in range(iterations):
        c = np.exp(b) / np.exp(b).sum(2, keepdims=True)
        s = (c[..., None] * votes).sum(1)
        squared = (s**2).sum(-1, keepdims=True)
        v = squared / (1 + squared) * s / np.sqrt(squared)
        b = b + (votes * v[:, None]).sum(-1)
    return v


def drawn_votes(*shape: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.RandomState(0).standard_normal(shape)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_routing_equals_the_papers_procedure(iterations: int, scale: float) -> None:
    votes = drawn_votes(2, 40, 7, 5, scale=scale)
    result = jax.jit(route, static_argnums=1)(jnp.asarray(votes, jnp.float32), iterations)
    np.testing.assert_allclose(result, plain_route(votes, iterations), atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 3])
def test_routing_gradient_equals_central_differences(iterations: int) -> None:
    votes, factors = drawn_votes(2, 6, 3, 4), drawn_votes(2, 3, 4)

    def objective(votes):
        return (route(votes, iterations) * factors.astype(np.float32)).sum()

    result = jax.grad(objective)(jnp.asarray(votes, jnp.float32))
    expected, step = np.zeros(votes.shape), 1e-5
    for index in np.ndindex(*votes.shape):
        nudge = np.zeros(votes.shape)
        nudge[index] = step
        after, before = (plain_route(votes + sign * nudge, iterations) for sign in (1, -1))
        expected[index] = ((after - before) * factors).sum() / (2 * step)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1e2, 1e6, 1e12])
def test_routing_is_finite(scale: float, dtype) -> None:
    votes = jnp.asarray(drawn_votes(2, 30, 4, 8, scale=scale), dtype)
    capsules, back = jax.vjp(jax.jit(route), votes)
    gradient = back(jnp.ones_like(capsules))[0]
    assert gradient.dtype == dtype
    assert np.isfinite(capsules).all() and np.isfinite(gradient.astype(jnp.float32)).all()
    assert length(capsules).max() <= 1.0 + 1e-6


def test_routing_in_bfloat16_is_near() -> None:
    votes = drawn_votes(2, 40, 7, 5, scale=0.2)
    result = route(jnp.asarray(votes, jnp.bfloat16))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, plain_route(votes, 3), atol=1e-2)


def test_routing_needs_iterations() -> None:
    with pytest.raises(ValueError, match="got 0"):
        route(jnp.zeros((1, 2, 3, 4)), 0)


def test_squash() -> None:
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(squash(x), [[25 / 26 * 0.6, 25 / 26 * 0.8], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: squash(x).sum())(x)[1], [0, 0], atol=1e-12)


def jaxtag_params(tensors: dict[str, np.ndarray], prefix: str):
    tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    convolutions = [param_mapping.conv(name, name, bias=True) for name in ("stem", "primary")]
    layers = [("fc1", 0), ("fc2", 2), ("out", 4)]
    linear = [
        param_mapping.linear(f"decoder/{target}", f"decoder.{source}") for target, source in layers
    ]
    params = param_mapping.to_variables(tensors, param_mapping.join([*convolutions, *linear]))[
        "params"
    ]
    matrices = tensors["matrices"].transpose(1, 2, 0, 5, 3, 4)  # places, then types
    return params | {"classes": {"kernel": matrices.reshape(-1, 4, 5, 6)}}


@pytest.mark.parametrize("mode", ["labels", "longest"])
def test_capsnet_equals_pytorch(mode: str) -> None:
    stored = load_file(REFERENCES / "capsnet.safetensors")
    model, images, labels = CapsNet(**NARROW), stored["images"], stored["labels"]

    def loss(params):
        reconstructed = labels if mode == "labels" else None
        outputs = model.apply({"params": params}, images, train=True, labels=reconstructed)
        losses = margin_loss(outputs["lengths"], jnp.asarray(labels))
        losses += 0.0005 * jnp.square(outputs["reconstruction"] - images).sum((1, 2, 3))
        return losses.mean(), outputs | {"losses": losses}

    params = jaxtag_params(stored, "weights/")
    (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    for name in ("capsules", "lengths", "reconstruction", "losses"):
        np.testing.assert_allclose(outputs[name], stored[f"{mode}/{name}"], atol=1e-5)
    expected = jaxtag_params(stored, f"{mode}/gradients/")
    assert jax.tree.structure(gradients) == jax.tree.structure(expected)
    for gradient, right in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(gradient, right, atol=1e-4 * np.abs(right).max())


def test_the_reconstruction_follows_the_labels() -> None:
    stored = load_file(REFERENCES / "capsnet.safetensors")
    model = CapsNet(**NARROW)
    variables = {"params": jaxtag_params(stored, "weights/")}
    longest = model.apply(variables, stored["images"])
    guess = longest["logits"].argmax(-1)
    same = model.apply(variables, stored["images"], labels=jax.nn.one_hot(guess, 5))
    other = model.apply(variables, stored["images"], labels=(guess + 1) % 5)
    np.testing.assert_array_equal(same["reconstruction"], longest["reconstruction"])
    assert np.abs(other["reconstruction"] - longest["reconstruction"]).max() > 1e-3


def shapes(model, *size: int):
    return jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((2, *size)))


@pytest.mark.parametrize("reconstruct, millions", [(False, 6.8), (True, 8.2)])
def test_parameters_are_the_papers(reconstruct: bool, millions: float) -> None:
    model = models.create_model("capsnet", num_classes=10, reconstruct=reconstruct)
    outputs, variables = shapes(model, 28, 28, 1)
    count = sum(x.size for x in jax.tree.leaves(variables))
    assert count == (8_215_568 if reconstruct else 6_804_224)
    assert abs(count / 1e6 - millions) < 0.05
    assert outputs["logits"].shape == outputs["lengths"].shape == (2, 10)
    assert outputs["capsules"].shape == (2, 10, 16)


def test_any_size_and_class_count() -> None:
    outputs, variables = shapes(CapsNet(num_classes=3, reconstruct=True), 32, 41, 3)
    assert outputs["features"].shape == (2, 8, 13, 256)
    assert outputs["pooled"].shape == (2, 256)
    assert outputs["reconstruction"].shape == (2, 32, 41, 3)
    assert variables["params"]["classes"]["kernel"].shape == (8 * 13 * 32, 8, 3, 16)


@pytest.mark.parametrize("chunks", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_votes_in_chunks_change_neither_values_nor_gradients(chunks: int, monkeypatch) -> None:
    """Six images as one chunk, and as `chunks` with a budget of 6 / chunks images each."""
    model = CapsNet(**NARROW)
    images = jax.random.uniform(jax.random.key(1), (6, 20, 20, 1))
    variables = model.init(jax.random.key(0), images)

    def values_and_gradients():
        def loss(variables):
            outputs = model.apply(variables, images)
            return margin_loss(outputs["logits"], jnp.arange(6) % 5).sum(), outputs["capsules"]

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)

    expected = values_and_gradients()
    kernel = variables["params"]["classes"]["kernel"]
    image_bytes = kernel.shape[0] * 5 * 6 * 4
    monkeypatch.setattr(capsnet, "_VOTE_BYTES", 6 // chunks * image_bytes)
    assert layers.num_chunks_for_budget(6, image_bytes, capsnet._VOTE_BYTES) == chunks
    for a, b in zip(*map(jax.tree.leaves, (values_and_gradients(), expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_without_classes_it_gives_primary_capsules() -> None:
    outputs, _ = CapsNet(channels=8, types=2).init_with_output(
        jax.random.key(0), jnp.ones((1, 17, 17, 1))
    )
    assert set(outputs) == {"features", "pooled"}
    assert 0 < length(outputs["features"].reshape(1, 2, 8)).min() < 1


def test_it_starts_where_the_loss_has_a_slope() -> None:
    """Class capsules neither all but zero nor all but one long, for images in [0, 1]."""
    images = jax.random.uniform(jax.random.key(1), (4, 28, 28, 1))
    outputs, _ = models.create_model("capsnet", num_classes=10).init_with_output(
        jax.random.key(0), images
    )
    assert 0.05 < outputs["lengths"].mean() < 0.95


def test_bfloat16_gradients_are_finite() -> None:
    model = CapsNet(**NARROW, dtype=jnp.bfloat16)
    images = jax.random.uniform(jax.random.key(1), (2, 20, 20, 1))
    variables = model.init(jax.random.key(0), images)

    def loss(variables):
        outputs = model.apply(variables, images, labels=jnp.array([1, 2]))
        assert outputs["features"].dtype == jnp.bfloat16
        assert outputs["logits"].dtype == outputs["reconstruction"].dtype == jnp.float32
        return (
            margin_loss(outputs["logits"], jnp.array([1, 2])).sum()
            + outputs["reconstruction"].sum()
        )

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(variables))
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)


def test_wrong_use_is_named() -> None:
    with pytest.raises(ValueError, match="17x17 pixels, got 20x16"):
        shapes(CapsNet(), 20, 16, 1)
    with pytest.raises(ValueError, match="set num_classes"):
        shapes(CapsNet(reconstruct=True), 20, 20, 1)


def test_margin_loss() -> None:
    lengths = jnp.array([[0.95, 0.05, 0.3], [0.6, 0.1, 0.0]])
    expected = [0.5 * 0.2**2, 0.9**2 + 0.5 * 0.5**2]
    labels = jnp.array([0, 2])
    np.testing.assert_allclose(margin_loss(lengths, labels), expected, atol=1e-6)
    targets = jax.nn.one_hot(labels, 3)
    np.testing.assert_allclose(margin_loss(lengths, targets), expected, atol=1e-6)
    mixed = margin_loss(lengths[:1], jnp.array([[0.0, 0.25, 0.75]]))
    spelt_out = 0.5 * 0.85**2 + 0.25 * 0.85**2 + 0.75 * 0.6**2 + 0.25 * 0.5 * 0.2**2
    np.testing.assert_allclose(mixed, [spelt_out], atol=1e-6)
    assert margin_loss(lengths.astype(jnp.bfloat16), labels).dtype == jnp.float32
