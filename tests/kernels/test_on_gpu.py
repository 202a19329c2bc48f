"""On an NVIDIA GPU: its forms of attention, convolutions and sums, against the plain ones.

JAX_PLATFORMS=cuda,cpu pytest tests/kernels/test_on_gpu.py
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag import models
from jaxtag.kernels import attention, conv, layers, pooling

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")


def distance(results, expected) -> float:
    """Relative, of two trees."""
    pairs = zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True)
    pairs = [tuple(np.asarray(x, np.float64) for x in pair) for pair in pairs]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(196, 196), (197, 197), (64, 101), (99, 70)])
def test_attention(num_queries, num_keys):
    rng = np.random.RandomState(0)
    query, gradient = (rng.randn(3, num_queries, 2, 64).astype(np.float32) for _ in range(2))
    key, value = (rng.randn(3, num_keys, 2, 64).astype(np.float32) for _ in range(2))

    def both(dtype):
        operands = [jnp.asarray(x, dtype) for x in (query, key, value)]
        with jax.default_matmul_precision("highest"):
            y, back = jax.jit(partial(jax.vjp, attention.attention))(*operands)
            return y, back(jnp.asarray(gradient, dtype))

    program = jax.jit(attention.attention).lower(
        *(jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (query, key, value))
    )
    assert "cudnn" in program.as_text()
    assert distance(both(jnp.bfloat16), both(jnp.float32)) < 1e-2


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((4, 28, 28, 1), (9, 9, 1, 32), 1, 0),
        ((4, 20, 20, 32), (9, 9, 32, 32), 2, 0),
        ((4, 33, 31, 3), (7, 7, 3, 32), 2, 3),
    ],
)
def test_convolutions(shape, kernel, stride, padding):
    rng = np.random.RandomState(0)
    x, k = (jnp.asarray(rng.randn(*s), jnp.float32) for s in (shape, kernel))
    pads = ((padding, padding), (padding, padding))
    native = partial(conv.native, stride=stride, padding=pads, groups=1)
    gradient = jnp.asarray(rng.randn(*jax.eval_shape(native, x, k).shape), jnp.float32)

    def both(form):
        with jax.default_matmul_precision("highest"):
            y, back = jax.vjp(form, x, k)
            return y, back(gradient)

    assert distance(both(lambda x, k: conv.convolve(x, k, stride, pads)), both(native)) < 1e-5


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "ceil"),
    [((15, 14), 2, 2, 0, False), ((12, 12), 3, 2, 1, False), ((13, 10), 3, 2, 0, True)],
)
def test_max_pool(size, window, stride, padding, ceil):
    """Of few values, so that many are equal: each gradient goes where XLA's own goes."""
    x = jnp.asarray(np.random.RandomState(0).randint(0, 4, (2, *size, 8)), jnp.bfloat16)
    pads = pooling._pads(size, window, stride, padding, ceil)
    forms = (
        lambda x: pooling.max_pool(x, window, stride, padding, ceil),
        partial(pooling._native, window=window, stride=stride, pads=pads),
    )
    (y, back), (expected, expected_back) = (jax.vjp(jax.jit(form), x) for form in forms)
    np.testing.assert_array_equal(y, expected)
    gradient = jnp.asarray(np.random.RandomState(1).randint(-9, 9, y.shape), jnp.bfloat16)
    np.testing.assert_array_equal(back(gradient)[0], expected_back(gradient)[0])


def test_add_broadcast():
    rng = np.random.RandomState(0)
    x, shared = (jnp.asarray(rng.randn(*s), jnp.float32) for s in ((6, 5, 8), (5, 8)))
    with jax.default_matmul_precision("highest"):
        y, back = jax.vjp(layers.add_broadcast, x, shared)
        x_gradient, shared_gradient = back(y)
    np.testing.assert_array_equal(y, x + shared)
    np.testing.assert_array_equal(x_gradient, y)
    np.testing.assert_allclose(shared_gradient, y.sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("efficientnet_b0", 64), ("capsnet", 28)]
)
def test_a_model_gives_what_it_gives_on_cpu(name, size):
    model = models.create_model(name, num_classes=5)
    images = np.random.RandomState(0).rand(4, size, size, 3).astype(np.float32)

    def on(device):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            variables = jax.jit(model.init)(jax.random.key(0), images)
            return jax.jit(model.apply)(variables, images)["features"]

    assert distance(on(jax.devices()[0]), on(jax.devices("cpu")[0])) < 1e-4
