"""The form of a computation that each platform gets, as the lowered program shows."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxtag.kernels.conv import convolve
from jaxtag.kernels.onednn import convolution
from jaxtag.models import ViT

PLATFORMS = ("cpu", "tpu", "cuda")


@pytest.fixture(autouse=True)
def without_onednn(monkeypatch) -> None:
    """A CPU with it takes it for all but 1x1 (tests/kernels/onednn)."""
    monkeypatch.setattr(convolution, "supports", lambda spec: False)


def lowered(function, platform: str, *shapes: tuple[int, ...]) -> str:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def convolutions(kernel: tuple[int, ...], stride: int, groups: int, platform: str) -> list[str]:
    """The kernels' shapes of all convolutions in the gradient of one."""

    def gradient(x, kernel):
        loss = lambda *a: convolve(*a, stride, ((1, 1), (1, 1)), groups).sum()  # noqa: E731
        return jax.grad(loss, (0, 1))(x, kernel)

    channels = kernel[2] * groups
    text = lowered(gradient, platform, (2, 16, 16, channels), kernel)
    return re.findall(r"stablehlo\.convolution.*?, tensor<([\dx]+)xf32>\)", text)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_gradient_of_a_norm_has_barriers(platform: str) -> None:
    """On CPU its result, on an NVIDIA GPU the mean and the deviation of the rows."""
    model = ViT(patch_size=8, width=32, depth=2, heads=2, mlp_dim=64, image_size=16, scan=True)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)

    def gradient(params, images):
        return jax.grad(lambda p: model.apply(p, images)["pooled"].sum())(params)

    traced = jax.jit(gradient).trace(params, images)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    barriers = re.findall(r"optimization_barrier .* : (.*)", text)
    operands = {"cpu": "tensor<2x5x32xf32>", "cuda": "tensor<2x5x1xf32>, tensor<2x5x1xf32>"}
    # Of both norms in the scanned layer, and of the last one.
    assert barriers == ([operands[platform]] * 3 if platform in operands else [])


@pytest.mark.parametrize("platform", PLATFORMS)
def test_depthwise_convolutions_are_sums_of_taps_on_cpu_alone(platform: str) -> None:
    kernels = convolutions((3, 3, 1, 6), 1, 6, platform)
    assert bool(kernels) is (platform != "cpu")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_dense_kernels_gradient_is_no_convolution_on_cpu(platform: str) -> None:
    kernels = convolutions((3, 3, 8, 5), 1, 1, platform)
    # On CPU: the gradient of the input, with the flipped kernel, and nothing else.
    assert kernels == ["3x3x5x8"] if platform == "cpu" else len(kernels) == 2


@pytest.mark.parametrize(
    ("platform", "small", "large"),
    [
        # XLA's own form of a large one is the faster on CPU.
        ("cpu", "2x2x12x16", "7x7x3x16"),
        ("tpu", "2x2x12x16", "4x4x12x16"),
        ("cuda", "2x2x16x16", "4x4x16x16"),
        ("rocm", "3x3x3x16", "7x7x3x16"),
    ],
)
def test_a_first_convolution_sees_squares_of_pixels(platform: str, small: str, large: str) -> None:
    stem = lambda x, kernel: convolve(x, kernel, 2, ((1, 1), (1, 1)))  # noqa: E731

    def kernel_shape(size: int) -> str:
        text = lowered(stem, platform, (2, 32, 32, 3), (size, size, 3, 16))
        (kernel,) = re.findall(r"stablehlo\.convolution.*?, tensor<([\dx]+)xf32>\)", text)
        return kernel

    assert kernel_shape(3) == small
    assert kernel_shape(7) == large


@pytest.mark.parametrize("platform", (*PLATFORMS, "rocm"))
def test_large_kernels_have_forms_of_their_own_on_nvidias_gpus_alone(platform: str) -> None:
    one_channel = convolutions((9, 9, 1, 16), 1, 1, platform)
    strided = convolutions((9, 9, 8, 16), 2, 1, platform)
    assert ("9x1x16x16" in one_channel) is (platform == "cuda")
    assert ("5x5x32x16" in strided) is (platform == "cuda")
