"""A small network that trains within seconds (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a
Single GPU", arXiv:2404.00498): airbench94, written after the paper's sections 3.1 to 3.3.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from jaxtag.kernels import layers
from jaxtag.kernels.batch_norm import BatchNorm
from jaxtag.kernels.conv import Conv
from jaxtag.kernels.pooling import max_pool
from jaxtag.models.preprocessing import Preprocessing

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
_PATCH = 2  # pixels, both sides, that the first convolution sees
_LOGIT_SCALE = 1 / 9
# Uniform between -1 / sqrt(inputs) and that, as PyTorch starts its layers.
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def partial_identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel `[k, k, C, O]` whose first outputs, up to C, start as the inputs (section 3.3)."""
    size, _, inputs, outputs = shape
    same = min(inputs, outputs)
    kernel = _uniform(key, shape, dtype).at[..., :same].set(0.0)
    return kernel.at[size // 2, size // 2, :same, :same].set(jnp.eye(same, dtype=dtype))


def whitening_kernel(
    images: np.ndarray,
    mean: tuple[float, ...] = CIFAR_MEAN,
    std: tuple[float, ...] = CIFAR_STD,
    epsilon: float = 5e-4,
) -> np.ndarray:
    """The first convolution's kernel: the principal components of 2x2 patches (section 3.2).

    Each is divided by the root of its variance plus `epsilon`, so that its output has variance 1;
    largest variance first, then all of them once more, negated. It takes the place of
    `params/whiten/kernel` before training, which then leaves it as it is.

    Args:
      images: [N, H, W, C], some thousands of the training set: uint8, or floats as the model takes
        them, normalised.
      mean, std: of the normalisation, for uint8 images.

    Returns:
      float32 [2, 2, C, 8 C].
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        images = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    patches = np.lib.stride_tricks.sliding_window_view(images, (_PATCH, _PATCH), (1, 2))
    patches = patches.transpose(0, 1, 2, 4, 5, 3)  # [N, h, w, 2, 2, C]
    shape = patches.shape[3:]
    flat = patches.reshape(-1, np.prod(shape)).astype(np.float64)
    variances, components = np.linalg.eigh(flat.T @ flat / len(flat))
    scaled = (components / np.sqrt(variances + epsilon))[:, ::-1]
    return np.concatenate([scaled, -scaled], axis=1).reshape(*shape, -1).astype(np.float32)


def params_from_images(
    images: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[tuple[str, ...], np.ndarray]:
    """Parameters that are computed from training images: {path: array}; see `whitening_kernel`."""
    return {("whiten", "kernel"): whitening_kernel(images, mean, std)}


class Group(nn.Module):
    """`[B, H, W, C]` to `[B, H / 2, W / 2, width]`: two convolutions, a pooling after the first."""

    width: int
    norm: dict[str, Any]
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for index in (1, 2):
            fields = {"kernel_init": partial_identity, "dtype": self.dtype}
            x = Conv(self.width, 3, **fields, name=f"conv{index}")(x)
            if index == 1:
                x = max_pool(x, 2, 2)
            norm = BatchNorm(
                **self.norm, epsilon=1e-12, use_scale=False, dtype=self.dtype, name=f"norm{index}"
            )
            x = layers.gelu_exact(norm(x, train))
        return x


class Airbench94(nn.Module):
    """Images `[B, H, W, C]`, normalised, at least 9x9, to named outputs: `features` `[B, h, w, D]`,
    `pooled` `[B, D]` (their largest values) and, with classes, `logits` float32
    `[B, num_classes]`.

    `params/whiten/kernel` is meant to be `whitening_kernel` of the training images, and fixed.

    Fields:
      widths: channels of the three groups of convolutions.
      num_classes: 0 for a backbone alone.
      norm_momentum, norm_groups: of `BatchNorm`.
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
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        smallest = 2 ** len(self.widths) + _PATCH - 1
        if min(images.shape[1:3]) < smallest:
            height, width = images.shape[1:3]
            raise ValueError(
                f"this network needs images of at least {smallest}x{smallest} pixels, "
                f"got {height}x{width}"
            )
        norm = {"momentum": self.norm_momentum, "groups": self.norm_groups}
        whitened = 2 * _PATCH**2 * images.shape[-1]
        fields = {"padding": 0, "use_bias": True, "kernel_init": _uniform, "dtype": self.dtype}
        x = layers.gelu_exact(Conv(whitened, _PATCH, **fields, name="whiten")(images))
        group = layers.remat_block(Group, self.remat)
        for index, width in enumerate(self.widths, start=1):
            x = group(width, norm, self.dtype, name=f"group{index}")(x, train)
        outputs = {"features": x, "pooled": x.max((1, 2))}
        if self.num_classes:
            head = nn.Dense(self.num_classes, use_bias=False, kernel_init=_uniform, name="head")
            outputs["logits"] = head(outputs["pooled"].astype(jnp.float32)) * _LOGIT_SCALE
        return outputs


MODELS = {"airbench94": (Airbench94, {}, Preprocessing(32, CIFAR_MEAN, CIFAR_STD, crop=1.0))}
