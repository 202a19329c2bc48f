"""Losses of images and texts: those of open_clip and transformers, over devices, their memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError
from jaxtag.losses import contrastive

BETA = 0.25
LOSSES = {
    f"{name}{suffix}": contrastive.make_loss(name, {"hard_negative_beta": beta})
    for name in ("clip", "siglip")
    for suffix, beta in (("", 0.0), ("_hard", BETA))
}
INPUTS = ("image", "text", "log_scale", "bias")


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return load_file(REFERENCES / "contrastive.safetensors")


def value(name: str):
    """(inputs by name, mask) → the loss."""

    def compute(inputs: dict[str, jax.Array], mask: jax.Array) -> jax.Array:
        image, text = (
            inputs[side] / jnp.linalg.norm(inputs[side], axis=-1, keepdims=True)
            for side in ("image", "text")
        )
        total, weight = LOSSES[name](image, text, mask, inputs["log_scale"], inputs["bias"])
        return total / jnp.maximum(weight, 1e-8)

    return compute


def inputs_of(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: stored[name] for name in INPUTS}


def check(name: str, stored: dict[str, np.ndarray], loss_and_gradients) -> None:
    loss, gradients = loss_and_gradients
    np.testing.assert_allclose(loss, stored[f"{name}/loss"], rtol=3e-6)
    for part, gradient in gradients.items():
        expected = stored[f"{name}/{part}"]
        scale = max(np.abs(expected).max(), 1e-2)  # CLIP's gradient of the bias is 0
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * scale)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_the_peers(name, stored) -> None:
    compute = jax.jit(jax.value_and_grad(value(name)))
    check(name, stored, compute(inputs_of(stored), stored["mask"]))


@pytest.mark.parametrize("name", ["clip_hard", "siglip"])
def test_eight_devices_give_the_loss_of_one(name, stored) -> None:
    mesh = meshes.make_mesh(fsdp=2)
    rows, whole = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    places = dict(zip(INPUTS, (rows, rows, whole, whole), strict=True))
    on_mesh = meshes.with_mesh(mesh, jax.value_and_grad(value(name)))
    compute = jax.jit(on_mesh, in_shardings=(places, rows), out_shardings=(whole, places))
    check(name, stored, compute(inputs_of(stored), stored["mask"]))


@pytest.mark.parametrize("name", ["clip", "siglip"])  # the weights of others have no gradient
def test_gradients_are_differences_of_the_loss(name, stored) -> None:
    few = {name: x[:6] if x.ndim else x for name, x in inputs_of(stored).items()}
    mask = jnp.asarray(stored["mask"][:6])
    compute = jax.jit(lambda inputs: value(name)(inputs, mask))
    check_grads(compute, (few,), order=1, modes=["rev"], atol=3e-3, rtol=3e-3)


def test_a_device_holds_its_share_of_the_logits_and_exchanges_with_one_other() -> None:
    """Of 8 devices: an eighth of an eighth of all pairs, and no array of the whole batch."""
    mesh = meshes.make_mesh()
    batch, width = 1024, 8
    rows, whole = meshes.batch_sharding(mesh), meshes.replicated(mesh)
    shapes = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in zip(INPUTS, [(batch, width)] * 2 + [()] * 2, strict=True)
    }
    places = dict(zip(INPUTS, (rows, rows, whole, whole), strict=True))
    on_mesh = meshes.with_mesh(mesh, jax.grad(value("clip_hard")))
    compute = jax.jit(on_mesh, in_shardings=(places, rows), out_shardings=places)
    compiled = compute.lower(shapes, jax.ShapeDtypeStruct((batch,), jnp.float32)).compile()
    block = (batch // 8) ** 2 * 4
    # Of XLA's CPU devices, which lie in one process, temporaries are those of one.
    assert compiled.memory_analysis().temp_size_in_bytes < 12 * block
    assert "all-gather" not in compiled.as_text() and "collective-permute" in compiled.as_text()


@pytest.mark.parametrize("name", ["clip_hard", "siglip_hard"])
def test_nothing_to_compare_gives_no_gradient(name, stored) -> None:
    """A batch that is all broken, and one image alone."""
    compute = jax.jit(jax.value_and_grad(value(name)))
    for present in (0, 1):
        mask = np.zeros(len(stored["mask"]), np.float32)
        mask[:present] = 1
        loss, gradients = compute(inputs_of(stored), mask)
        assert np.isfinite(loss) and (present or loss == 0)
        for gradient in jax.tree.leaves(gradients):
            assert np.isfinite(gradient).all() and (present or not gradient.any())


def test_the_scale_of_clip_rises_to_100_and_can_fall_again() -> None:
    scale, back = jax.vjp(contrastive.clamp_scale, jnp.float32(np.log(120)))
    assert scale == 100
    assert back(jnp.float32(2))[0] > 0  # a gradient step lowers it
    assert back(jnp.float32(-2))[0] == 0  # and does not raise it
    scale, back = jax.vjp(contrastive.clamp_scale, jnp.float32(np.log(10)))
    np.testing.assert_allclose((scale, back(jnp.float32(-2))[0]), (10, -20), rtol=1e-6)


def test_a_wrong_loss_or_argument_is_named() -> None:
    with pytest.raises(UsageError, match=r"config.task.loss = 'sigclip': .*did you mean siglip"):
        contrastive.make_loss("sigclip", {})
    with pytest.raises(UsageError, match=r"clip has no argument 'hard_negative_bet' \(did you m"):
        contrastive.make_loss("clip", {"hard_negative_bet": 1.0})
