"""The captioner in training: gradients, rematerialisation, scan, dropout, half precision."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag.kernels.layers import Dropout, DropPath
from jaxtag.models import Captioner, Decoder, ViT

IMAGES = np.random.RandomState(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
TOKENS = np.random.RandomState(1).randint(0, 11, (2, 3, 6)).astype(np.int32)


def model(noisy: bool = False, dtype=jnp.float32, form="pre_norm", **both) -> Captioner:
    rate = 0.5 if noisy else 0.0
    sizes = {"depth": 2, "heads": 2, "mlp_dim": 16, "dropout": rate, "dtype": dtype, **both}
    encoder = ViT(patch_size=8, width=12, image_size=16, drop_path=rate, **sizes)
    decoder = Decoder(11, 6, width=8, attention_dropout=rate, form=form, **sizes)
    return Captioner(encoder, decoder)


def loss_and_gradients(model, params):
    def loss(params):
        rngs = {"dropout": jax.random.key(3)}
        logits = model.apply({"params": params}, IMAGES, TOKENS, True, rngs=rngs)["logits"]
        return -jax.nn.log_softmax(logits)[..., 0].mean()

    return jax.jit(jax.value_and_grad(loss))(params)


@partial(jax.jit, static_argnums=0)
def logits_of(model, params, tokens):
    return model.apply({"params": params}, IMAGES, tokens)["logits"]


@cache
def start(model):
    params = jax.jit(model.init)(jax.random.key(0), IMAGES, TOKENS)["params"]
    random = np.random.RandomState(2)
    return jax.tree.map(lambda p: p + 0.1 * random.randn(*p.shape).astype(np.float32), params)


@cache
def plain(scan: bool):
    return loss_and_gradients(model(noisy=True, scan=scan), start(model(scan=scan)))


@pytest.mark.parametrize(
    ("scan", "dtype", "form"),
    [
        pytest.param(False, jnp.float32, "pre_norm", marks=pytest.mark.slow),
        pytest.param(True, jnp.float32, "pre_norm", marks=pytest.mark.slow),
        (True, jnp.bfloat16, "pre_norm"),
        (False, jnp.float32, "prefix"),
        pytest.param(False, jnp.float32, "post_norm", marks=pytest.mark.slow),
        pytest.param(True, jnp.bfloat16, "prefix", marks=pytest.mark.slow),
    ],
)
def test_every_parameter_has_a_finite_gradient(scan: bool, dtype, form: str) -> None:
    depth = 2 if form == "pre_norm" or scan else 1
    captioner = model(scan=scan, dtype=dtype, form=form, depth=depth)
    params = start(captioner)
    outputs = jax.eval_shape(captioner.apply, {"params": params}, IMAGES, TOKENS)
    assert outputs["logits"].shape == (2, 3, 6, 11)
    assert outputs["logits"].dtype == jnp.float32
    assert outputs["features"].shape == (2, 5, 12 if form == "post_norm" else 8)
    assert outputs["features"].dtype == dtype
    _, gradients = loss_and_gradients(captioner, params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert leaf.dtype == jnp.float32, path
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(
    ("scan", "policy"),
    [
        (False, "dots"),
        (True, "full"),
        (True, "dots"),
    ],
)
@pytest.mark.slow  # tests/models/test_zoo.py has the policies by default, of backbones
def test_remat_changes_no_gradient(scan: bool, policy: str) -> None:
    params = start(model(scan=scan))
    other = loss_and_gradients(model(noisy=True, scan=scan, remat=policy), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain(scan), other)


def test_scan_equals_unrolled() -> None:
    unrolled = start(model())
    stacked = {
        name: {key: value for key, value in part.items() if not key.startswith("block_")}
        | {"blocks": jax.tree.map(lambda a, b: jnp.stack([a, b]), part["block_0"], part["block_1"])}
        if "block_0" in part
        else part
        for name, part in unrolled.items()
    }
    a = logits_of(model(), unrolled, TOKENS)
    b = logits_of(model(scan=True), stacked, TOKENS)
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "form", ["pre_norm", pytest.param("post_norm", marks=pytest.mark.slow), "prefix"]
)
def test_captions_of_an_image_do_not_mix(form: str) -> None:
    captioner = model(form=form, depth=2 if form == "pre_norm" else 1)
    params = start(captioner)
    together = logits_of(captioner, params, TOKENS)
    for k in range(3):
        alone = logits_of(captioner, params, TOKENS[:, k : k + 1])
        np.testing.assert_allclose(together[:, k : k + 1], alone, atol=1e-5)
    changed = TOKENS.copy()
    changed[..., 4] = (changed[..., 4] + 1) % 11
    a, b = (logits_of(captioner, params, t) for t in (TOKENS, changed))
    np.testing.assert_allclose(a[:, :, :4], b[:, :, :4], atol=1e-6)
    assert np.abs(a[:, :, 4:] - b[:, :, 4:]).max() > 1e-3


def test_noise_only_in_training() -> None:
    captioner = model(noisy=True)
    params = start(captioner)

    @partial(jax.jit, static_argnums=1)
    def logits(seed: int, train: bool):
        rngs = {"dropout": jax.random.key(seed)}
        return captioner.apply({"params": params}, IMAGES, TOKENS, train, rngs=rngs)["logits"]

    np.testing.assert_array_equal(logits(0, False), logits(1, False))
    np.testing.assert_array_equal(logits(0, True), logits(0, True))
    assert np.abs(logits(0, True) - logits(1, True)).max() > 1e-3


@pytest.mark.parametrize("width", [64, 63])
def test_dropout_keeps_the_mean_and_the_rate(width: int) -> None:
    x = jnp.ones((1000, width))
    y = Dropout(0.3).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert y.mean() == pytest.approx(1.0, abs=0.015)
    with pytest.raises(ValueError, match="dropout rate"):
        Dropout(1.0).apply({}, x, True, rngs={"dropout": jax.random.key(0)})


def test_drop_path_drops_whole_examples() -> None:
    x = jnp.ones((4000, 2, 3))
    y = np.asarray(DropPath().apply({}, x, 0.25, True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (y == y[:, :1, :1]).all()
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form must be one of pre_norm, post_norm, prefix"):
        jax.eval_shape(model(form="encoder").init, jax.random.key(0), IMAGES, TOKENS)


def test_too_many_tokens() -> None:
    with pytest.raises(ValueError, match="more than the decoder's max_length"):
        jax.eval_shape(model().init, jax.random.key(0), IMAGES, np.zeros((2, 1, 7), np.int32))
