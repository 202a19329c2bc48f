"""CapsNet (Sabour, Frosst, Hinton 2017, "Dynamic Routing Between Capsules", arXiv:1710.09829).

On MNIST (28x28x1, 10 classes) it has the paper's parameters: 6.8 million, and 8.2 million with the
decoder.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from jaxtag.array_types import AnyArray, Images
from jaxtag.kernels.conv import Conv
from jaxtag.kernels.layers import Linear, chunked_map, num_chunks_for_budget
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.registry import register_model
from jaxtag.models.routing import length, route, squash

_KERNEL = 9  # of both convolutions
_SMALLEST_IMAGE = 2 * _KERNEL - 1
_VOTE_BYTES = 1 << 30  # bytes of votes at a time, on a device
_he_fan_in = nn.initializers.he_normal()


class ClassCapsules(nn.Module):
    """Lower capsules to one capsule a class, float32.

    Each pair of a lower capsule and a class has a matrix of its own: kernel `[N, K, classes,
    size]`, so that the parameters belong to one size of image. Its votes, N x classes x size for
    each image, and some copies of them exist for a chunk of the images at a time (374 classes at
    32x32 pixels: 49 MB an image).
    """

    classes: int
    size: int
    iterations: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N K"]) -> Float[Array, "B {self.classes} {self.size}"]:
        shape = (*x.shape[1:], self.classes, self.size)
        kernel = self.param("kernel", nn.initializers.truncated_normal(0.1), shape)
        kernel = jnp.asarray(kernel).astype(self.dtype)

        def capsules(x: Array) -> Array:
            return route(jnp.einsum("bnk,nkcd->bncd", x, kernel), self.iterations)

        vote_bytes = shape[0] * self.classes * self.size * kernel.dtype.itemsize
        chunks = num_chunks_for_budget(x.shape[0], vote_bytes, _VOTE_BYTES)
        x = x.astype(self.dtype)
        return capsules(x) if chunks == 1 else chunked_map(capsules, chunks, x)


class ReconstructionDecoder(nn.Module):
    """Masked class capsules to images `[B, *shape]` in [0, 1], float32."""

    shape: tuple[int, ...]
    hidden: tuple[int, ...]
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B H W C"]:
        for index, width in enumerate(self.hidden, start=1):
            x = nn.relu(Linear((width,), _he_fan_in, self.dtype, name=f"fc{index}")(x))
        height, width, channels = self.shape
        x = Linear((height * width * channels,), dtype=self.dtype, name="out")(x)
        return nn.sigmoid(x.astype(jnp.float32)).reshape(-1, *self.shape)


@register_model("capsnet", Preprocessing(28, (0.0,), (1.0,), crop=1.0))
class CapsNet(nn.Module):
    """Images in [0, 1], at least 17x17, of any channels, to named outputs:

    - `features` `[B, h, w, types * primary_size]`: the primary capsules, and `pooled`, their mean;
    - with classes: `capsules` float32 `[B, num_classes, class_size]`, `lengths` float32
      `[B, num_classes]`, the presence of each class, in [0, 1); also as `logits`, since the
      prediction is the longest (for `losses.classification.margin_loss`; they are no log-odds);
    - with `reconstruct`: `reconstruction` float32 `[B, H, W, C]` in [0, 1], of the capsule of the
      label, or of the longest where no labels are given.

    Attributes:
        num_classes: 0 for the primary capsules alone.
        reconstruct: with the decoder (section 4.1), which needs classes.
        iterations: of routing.
        channels: of the first convolution.
        types: of primary capsules, at each position of the grid.
        primary_size: dimensions of a primary capsule.
        class_size: dimensions of a class capsule.
        decoder: hidden units of the decoder's layers.
    """

    num_classes: int = 0
    reconstruct: bool = False
    iterations: int = 3
    channels: int = 256
    types: int = 32
    primary_size: int = 8
    class_size: int = 16
    decoder: tuple[int, ...] = (512, 1024)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Images,
        train: bool = False,
        labels: Int[AnyArray, " B"] | Float[AnyArray, "B {self.num_classes}"] | None = None,
    ) -> dict[str, Array]:
        """Named outputs, the same in training.

        Args:
            labels: of the capsules to reconstruct from, classes or weights of the classes.

        Raises:
            ValueError: images are too small, or a reconstruction has no classes.
        """
        batch, height, width, _ = images.shape
        if min(height, width) < _SMALLEST_IMAGE:
            raise ValueError(
                f"CapsNet needs images of at least {_SMALLEST_IMAGE}x{_SMALLEST_IMAGE} pixels, "
                f"got {height}x{width}"
            )
        if self.reconstruct and not self.num_classes:
            raise ValueError("CapsNet reconstructs from class capsules: set num_classes")
        conv = partial(
            Conv,
            kernel_size=_KERNEL,
            padding=0,
            use_bias=True,
            kernel_init=_he_fan_in,
            dtype=self.dtype,
        )
        x = nn.relu(conv(features=self.channels, name="stem")(images))
        x = conv(features=self.types * self.primary_size, stride=2, name="primary")(x)
        primary = squash(x.reshape(batch, -1, self.primary_size))
        features = primary.astype(self.dtype).reshape(x.shape)
        outputs = {"features": features, "pooled": features.mean((1, 2))}
        if not self.num_classes:
            return outputs
        fields = (self.num_classes, self.class_size, self.iterations, self.dtype)
        capsules = ClassCapsules(*fields, name="classes")(primary)
        lengths = length(capsules)
        outputs |= {"capsules": capsules, "lengths": lengths, "logits": lengths}
        if self.reconstruct:
            masked = capsules * _mask(lengths, labels)[..., None]
            decoder = ReconstructionDecoder(
                images.shape[1:], self.decoder, self.dtype, name="decoder"
            )
            outputs["reconstruction"] = decoder(masked.reshape(batch, -1))
        return outputs


def _mask(lengths: Float[Array, "B C"], labels: AnyArray | None) -> Float[AnyArray, "B C"]:
    """1 for the capsule to reconstruct from, 0 for the others."""
    if labels is None:
        labels = lengths.argmax(-1)
    return jax.nn.one_hot(labels, lengths.shape[-1]) if labels.ndim == 1 else labels
