"""Every form of a convolution against XLA's own, outputs and gradients; padding and pooling.

oneDNN's are tested in tests/kernels/onednn.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxtag.kernels import conv, pooling
from jaxtag.kernels.onednn import convolution

CASES = {
    # name: (image, channels, features, kernel, stride, padding, groups)
    "pointwise": ((7, 9), 6, 8, (1, 1), 1, 0, 1),
    "pointwise strided": ((7, 8), 6, 8, (1, 1), 2, 0, 1),
    "pointwise padded": ((5, 5), 3, 4, (1, 1), 1, 1, 1),
    "dense": ((9, 7), 5, 6, (3, 3), 1, None, 1),
    "dense no padding": ((9, 7), 5, 6, (3, 3), 1, 0, 1),
    "dense much padding": ((5, 6), 5, 6, (3, 3), 1, 4, 1),
    "dense even kernel": ((9, 8), 5, 6, (4, 2), 1, ((1, 2), (0, 1)), 1),
    "dense strided": ((9, 8), 5, 6, (3, 3), 2, None, 1),
    "dense large": ((11, 12), 16, 17, (7, 7), 1, 2, 1),
    "dense large strided": ((14, 13), 16, 17, (9, 6), 2, 1, 1),
    "dense strided same": ((10, 9), 5, 6, (3, 3), 2, "same", 1),
    "dense stride 3": ((11, 13), 5, 6, (5, 5), 3, 1, 1),
    "smaller than the kernel": ((2, 2), 16, 17, (3, 3), 1, None, 1),
    "smaller than the kernel strided": ((2, 3), 16, 17, (3, 3), 2, None, 1),
    "one pixel": ((1, 1), 16, 17, (3, 3), 1, None, 1),
    "thin": ((8, 9), 3, 8, (2, 2), 1, 0, 1),
    "thin padded": ((7, 6), 3, 5, (3, 3), 1, None, 1),
    "thin stride 3": ((11, 10), 1, 4, (5, 4), 3, 1, 1),
    "stem": ((17, 16), 3, 8, (7, 7), 2, None, 1),
    "stem same": ((16, 15), 3, 8, (3, 3), 2, "same", 1),
    "stem no padding": ((21, 22), 1, 8, (9, 9), 2, 0, 1),
    "stem even kernel": ((12, 11), 2, 4, (4, 4), 2, 1, 1),
    "grouped": ((6, 7), 8, 12, (3, 3), 1, None, 4),
    "grouped strided": ((6, 7), 8, 12, (3, 3), 2, None, 2),
    "depthwise": ((8, 7), 6, 6, (3, 3), 1, None, 6),
    "depthwise strided": ((8, 7), 6, 6, (5, 5), 2, None, 6),
    "depthwise same": ((8, 7), 6, 6, (3, 3), 2, "same", 6),
    "depthwise much padding": ((4, 4), 6, 6, (3, 3), 1, 3, 6),
    "depthwise multiplied": ((8, 7), 6, 12, (3, 3), 1, None, 6),
}


@pytest.fixture
def without_onednn(monkeypatch) -> None:
    """As on a machine where it is not installed."""
    monkeypatch.setattr(convolution, "supports", lambda spec: False)


@pytest.mark.parametrize("case", CASES)
def test_forms_equal_xla(case: str, without_onednn) -> None:
    size, channels, features, kernel_size, stride, padding, groups = CASES[case]
    padding = conv.resolve_padding(padding, kernel_size, stride, size)
    rng = np.random.RandomState(0)
    x = jnp.asarray(rng.randn(3, *size, channels), jnp.float32)
    kernel = jnp.asarray(rng.randn(*kernel_size, channels // groups, features), jnp.float32)

    def ours(x, kernel):
        return conv.convolve(x, kernel, stride, padding, groups)

    def xla(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    y, back = jax.vjp(jax.jit(ours), x, kernel)
    expected, expected_back = jax.vjp(xla, x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    gradient = jnp.asarray(rng.randn(*expected.shape), jnp.float32)
    for a, b in zip(back(gradient), expected_back(gradient), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize(
    "case", ["stem", "stem same", "stem no padding", "large strided", "one channel"]
)
def test_forms_for_nvidia_gpus_equal_xla(case: str) -> None:
    """The functions alone: tests/kernels/test_on_gpu.py runs them where they are meant to run."""
    own = {
        "large strided": ((14, 13), 16, 17, (9, 9), 2, 1, 1),
        "one channel": ((14, 13), 1, 8, (9, 5), 1, 2, 1),
    }
    cases = {**CASES, **own}
    size, channels, features, kernel_size, stride, padding, groups = cases[case]
    padding = conv.resolve_padding(padding, kernel_size, stride, size)
    rng = np.random.RandomState(0)
    x = jnp.asarray(rng.randn(3, *size, channels), jnp.float32)
    kernel = jnp.asarray(rng.randn(*kernel_size, channels, features), jnp.float32)
    native = functools.partial(conv.native, stride=stride, padding=padding, groups=groups)
    output = jax.eval_shape(native, x, kernel).shape
    spec = conv.ConvSpec("float32", x.shape, kernel.shape, output, stride, padding, groups)
    assert conv.OUTPUT.select(spec)["cuda"].name != "native"
    y, back = jax.vjp(conv.OUTPUT.functions(spec)["cuda"], x, kernel)
    expected, expected_back = jax.vjp(native, x, kernel)
    gradient = jnp.asarray(rng.randn(*expected.shape), jnp.float32)
    gradients = conv.GRADIENTS.functions(spec)["cuda"](x, kernel, gradient)
    for result, right in zip(
        (y, *back(gradient), *gradients),
        (expected, *expected_back(gradient), *expected_back(gradient)),
        strict=True,
    ):
        np.testing.assert_allclose(result, right, rtol=1e-4, atol=1e-3)


BFLOAT16_CASES = {
    "pointwise": ((7, 9), 16, 24, (1, 1), 1, 0),
    "dense": ((9, 7), 16, 24, (3, 3), 1, 1),
    "dense strided": ((9, 8), 24, 16, (3, 3), 2, 1),
    "dense large strided": ((14, 13), 16, 17, (9, 6), 2, 1),
    "few channels": ((6, 6), 4, 5, (3, 3), 1, 1),
}


@pytest.mark.parametrize("case", BFLOAT16_CASES)
def test_bfloat16_sums_in_float32(case: str, without_onednn) -> None:
    """Off by the rounding of what is given back (2^-9 of it), not of each term of a sum."""
    size, channels, features, kernel_size, stride, padding = BFLOAT16_CASES[case]
    pairs = ((padding, padding), (padding, padding))
    rng = np.random.RandomState(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.randn(*shape), jnp.bfloat16)

    def ours(x, kernel):
        return conv.convolve(x, kernel, stride, pairs, 1)

    x, kernel = draw(3, *size, channels), draw(*kernel_size, channels, features)
    y, back = jax.vjp(jax.jit(ours), x, kernel)
    exact = x.astype(jnp.float32), kernel.astype(jnp.float32)
    expected, expected_back = jax.vjp(jax.jit(ours), *exact)
    gradient = draw(*y.shape)
    results = (y, *back(gradient))
    for a, b in zip(results, (expected, *expected_back(gradient.astype(jnp.float32))), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-8, atol=1e-4)


def test_same_is_tensorflows() -> None:
    assert conv.resolve_padding("same", (3, 3), 2, (224, 7)) == ((0, 1), (1, 1))
    assert conv.resolve_padding(None, (7, 3), 2, (224, 7)) == ((3, 3), (1, 1))
    with pytest.raises(ValueError, match="'valid'"):
        conv.resolve_padding("valid", (3, 3), 1, (8, 8))


def test_groups_must_divide_channels() -> None:
    with pytest.raises(ValueError, match=r"groups \(4\)"):
        conv.Conv(8, groups=4).init(jax.random.key(0), jnp.zeros((1, 8, 8, 6)))


WINDOWS = [(3, 2, 1, False), (2, 2, 0, False), (3, 3, 1, True), (3, 2, 0, True), (3, 1, 1, False)]


@pytest.mark.parametrize("window, stride, padding, ceil", WINDOWS)
@pytest.mark.parametrize("size", [(8, 9), (7, 6)])
def test_max_pool_equals_a_plain_reading(size, window, stride, padding, ceil) -> None:
    """Values of few levels, so that windows hold ties: the first one gets the gradient."""
    rng = np.random.RandomState(1)
    x = rng.randint(0, 4, (2, *size, 3)).astype(np.float32)
    y, back = jax.vjp(lambda x: pooling.max_pool(x, window, stride, padding, ceil), jnp.asarray(x))
    gradient = rng.randn(*y.shape).astype(np.float32)
    expected, x_gradient = np.full(y.shape, -np.inf), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(*y.shape):
        best = None
        for di, dj in np.ndindex(window, window):
            row, column = i * stride + di - padding, j * stride + dj - padding
            inside = 0 <= row < size[0] and 0 <= column < size[1]
            if inside and x[b, row, column, c] > expected[b, i, j, c]:
                expected[b, i, j, c], best = x[b, row, column, c], (row, column)
        x_gradient[b, *best, c] += gradient[b, i, j, c]
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(back(jnp.asarray(gradient))[0], x_gradient, atol=1e-5)


@pytest.mark.parametrize("stride", [6, 12])
def test_max_pool_of_large_windows(stride) -> None:
    """More taps in a window than an int8 counts."""
    x = np.zeros((1, 24, 24, 1), np.float32)
    x[0, 11, 11] = x[0, 23, 12] = 1.0  # the last tap of its window, and one of the last row
    pool = jax.jit(lambda x: pooling.max_pool(x, 12, stride))
    y = pool(x)
    x_gradient = jax.jit(jax.grad(lambda x: pool(x).sum()))(jnp.asarray(x))
    assert x_gradient[0, 11, 11, 0] >= 1 and x_gradient[0, 23, 12, 0] >= 1
    assert x_gradient.sum() == y.size


def test_equal_values_share_the_gradient_of_the_global_maximum() -> None:
    x = np.random.RandomState(0).randint(0, 3, (2, 3, 4, 5)).astype(np.float32)
    y, back = jax.jit(lambda x: jax.vjp(pooling.global_max_pool, x))(x)
    largest = x.max((1, 2), keepdims=True)
    np.testing.assert_array_equal(y, largest[:, 0, 0])
    expected = (x == largest) / (x == largest).sum((1, 2), keepdims=True)
    (gradient,) = back(jnp.ones((2, 5)))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_ceil_mode_sizes_are_torchs() -> None:
    """torch.nn.MaxPool2d(3, 2, ceil_mode=True): 112 -> 56, 55 -> 27, 54 -> 27."""
    for size, expected in ((112, 56), (55, 27), (54, 27)):
        x = jnp.zeros((1, size, size, 1))
        assert pooling.max_pool(x, 3, 2, 0, True).shape[1] == expected


def test_adaptive_mean_pool_equals_torchs_rule() -> None:
    x = np.random.RandomState(0).randn(1, 7, 4, 2).astype(np.float32)
    y = pooling.adaptive_mean_pool(jnp.asarray(x), 3)
    rows, columns = [(0, 3), (2, 5), (4, 7)], [(0, 2), (1, 3), (2, 4)]
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            expected = x[0, top:bottom, left:right].mean((0, 1))
            np.testing.assert_allclose(y[0, i, j], expected, atol=1e-6)
