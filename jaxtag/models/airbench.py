"""airbench94, a small network that trains within seconds, after sections 3.1 to 3.3 of the paper.

Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from jaxtag.array_types import Images
from jaxtag.kernels import layers
from jaxtag.kernels.batch_norm import BatchNorm
from jaxtag.kernels.conv import Conv
from jaxtag.kernels.pooling import global_max_pool, max_pool
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.registry import register_model

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
_PATCH = 2  # pixels, both sides, that the first convolution sees
_LOGIT_SCALE = 1 / 9
# Uniform between plus and minus 1 / sqrt(inputs), as PyTorch initializes its layers.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def partial_identity(
    key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Float[Array, "k k C O"]:
    """Initializes a kernel whose first outputs, up to C, are the inputs (section 3.3)."""
    size, _, inputs, outputs = shape
    same = min(inputs, outputs)
    kernel = _uniform(key, shape, dtype).at[..., :same].set(0.0)
    return kernel.at[size // 2, size // 2, :same, :same].set(jnp.eye(same, dtype=dtype))


def whitening_kernel(
    images: Shaped[np.ndarray, "N H W C"],
    mean: tuple[float, ...] = CIFAR_MEAN,
    std: tuple[float, ...] = CIFAR_STD,
    epsilon: float = 5e-4,
) -> Float[np.ndarray, "2 2 C O"]:
    """The first convolution's kernel: the principal components of 2x2 patches (section 3.2).

    Each is divided by the root of its variance plus `epsilon`, so that its output has variance 1;
    largest variance first, then all of them once more, negated. It takes the place of
    `params/whiten/kernel` before training, which then leaves it as it is.

    Args:
        images: some thousands of the training set: uint8, or floats as the model takes them,
            normalized.
        mean: of the normalization, for uint8 images.
        std: the same.

    Returns:
        float32, O is 8 C.
    """
    if images.dtype == np.uint8:
        pixels = images.astype(np.float32) / 255
        images = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(images, (_PATCH, _PATCH), (1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3)  # [N, h, w, 2, 2, C]
    shape = patches.shape[3:]
    flat = patches.reshape(-1, np.prod(shape)).astype(np.float64)
    variances, components = np.linalg.eigh(flat.T @ flat / len(flat))
    scaled = (components / np.sqrt(variances + epsilon))[:, ::-1]
    return np.concatenate([scaled, -scaled], axis=1).reshape(*shape, -1).astype(np.float32)


def params_from_images(
    images: Shaped[np.ndarray, "N H W C"], mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[tuple[str, ...], np.ndarray]:
    """Parameters computed from training images, by path; see `whitening_kernel`."""
    return {("whiten", "kernel"): whitening_kernel(images, mean, std)}


class Group(nn.Module):
    """Two convolutions, with a pooling after the first: to `[B, H / 2, W / 2, width]`."""

    width: int
    norm: Mapping[str, Any]
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], train: bool
    ) -> Float[Array, "B h w {self.width}"]:
        conv = partial(Conv, self.width, 3, kernel_init=partial_identity, dtype=self.dtype)
        for index in (1, 2):
            x = conv(name=f"conv{index}")(x)
            if index == 1:
                x = max_pool(x, 2, 2)
            norm = BatchNorm(
                **self.norm, epsilon=1e-12, use_scale=False, dtype=self.dtype, name=f"norm{index}"
            )
            x = layers.gelu_exact(norm(x, train))
        return x


@register_model("airbench94", Preprocessing(32, CIFAR_MEAN, CIFAR_STD, crop=1.0))
class Airbench94(nn.Module):
    """Normalized images, at least 9x9, to named outputs.

    `features` `[B, h, w, D]`, `pooled` `[B, D]` (their largest values) and, with classes, `logits`
    float32 `[B, num_classes]`. `params/whiten/kernel` should be `whitening_kernel` of the training
    images, and fixed.

    Attributes:
        widths: channels of the three groups of convolutions.
        num_classes: 0 for a backbone alone.
        norm_momentum: of `BatchNorm`, as `norm_groups`.
        remat: "none", or "full": a group's intermediates are computed again in the backward pass.
    """

    NUM_INIT_IMAGES: ClassVar[int] = 5000  # training images for `params_from_images`
    params_from_images = staticmethod(params_from_images)

    widths: tuple[int, ...] = (64, 256, 256)
    num_classes: int = 0
    norm_momentum: float = 0.6
    norm_groups: int = 1
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        smallest = 2 ** len(self.widths) + _PATCH - 1
        if min(images.shape[1:3]) < smallest:
            height, width = images.shape[1:3]
            raise ValueError(
                f"this network needs images of at least {smallest}x{smallest} pixels, "
                f"got {height}x{width}"
            )
        norm = {"momentum": self.norm_momentum, "groups": self.norm_groups}
        whiten = Conv(
            2 * _PATCH**2 * images.shape[-1],
            _PATCH,
            padding=0,
            use_bias=True,
            kernel_init=_uniform,
            dtype=self.dtype,
            name="whiten",
        )
        x = layers.gelu_exact(whiten(images))
        group = layers.remat_block(Group, self.remat)
        for index, width in enumerate(self.widths, start=1):
            x = group(width, norm, self.dtype, name=f"group{index}")(x, train)
        outputs = {"features": x, "pooled": global_max_pool(x)}
        if self.num_classes:
            head = nn.Dense(self.num_classes, use_bias=False, kernel_init=_uniform, name="head")
            outputs["logits"] = head(outputs["pooled"].astype(jnp.float32)) * _LOGIT_SCALE
        return outputs
