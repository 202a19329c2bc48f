"""AlexNet, of one tower (Krizhevsky 2014, arXiv:1404.5997) and of two (Krizhevsky, Sutskever and
Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks").

With the same weights the one of one tower computes what torchvision's `alexnet` computes.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxtag.array_types import AnyArray, Images
from jaxtag.kernels import layers
from jaxtag.kernels.conv import Conv
from jaxtag.kernels.pooling import adaptive_mean_pool, max_pool
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.registry import register_model

ONE_TOWER = (64, 192, 384, 256, 256)
TWO_TOWERS = (96, 256, 384, 384, 256)
GRID = 6  # parts of the image, in each direction, that the first hidden layer sees

he_normal = nn.initializers.he_normal()


def local_response_norm(x: Float[AnyArray, "*B C"]) -> Float[Array, "*B C"]:
    """Divides each channel by its energy and that of two channels on either side.

    `x / (2 + 1e-4 * sum of the squares)^0.75`, computed in float32, returned in x's dtype
    (section 3.3 of the paper of 2012; torch's norm of this name takes the mean of the squares).
    """
    reach = 2
    x = jnp.asarray(x)
    squares = jnp.square(x.astype(jnp.float32))
    squares = jnp.pad(squares, [(0, 0)] * (x.ndim - 1) + [(reach, reach)])
    total = sum(squares[..., i : i + x.shape[-1]] for i in range(2 * reach + 1))
    return (x * (2.0 + 1e-4 * total) ** -0.75).astype(x.dtype)


class Stage(nn.Module):
    """Convolution, ReLU, and optionally norm and pooling, to `[B, H', W', features]`.

    Attributes:
        normalized: by `local_response_norm`.
        pooled: the largest of 3x3 pixels, with stride 2.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    normalized: bool = False
    pooled: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "B h w {self.features}"]:
        """`train` changes nothing: every family's blocks are called alike."""
        size = (self.kernel_size, self.stride, self.padding, self.groups)
        x = nn.relu(Conv(self.features, *size, True, he_normal, self.dtype, name="conv")(x))
        if self.normalized:
            x = local_response_norm(x)
        return max_pool(x, 3, 2) if self.pooled else x


@register_model("alexnet")
@register_model(
    "alexnet_two_tower",
    Preprocessing(image_size=227, crop=227 / 256),
    channels=TWO_TOWERS,
    two_towers=True,
)
class AlexNet(nn.Module):
    """Normalized images to named outputs.

    `features` `[B, h, w, D]` (6x6 for images of 224), `pooled` `[B, hidden]` (the second hidden
    layer's) and, with classes, `logits` float32 `[B, num_classes]`. For images of 63 pixels or more
    (two towers: 67).

    Attributes:
        channels: of the five convolutions.
        two_towers: the network of 2012: the second, fourth and fifth convolution see their own half
            of the channels; response norms after the first two; no padding before the first;
            dropout after the hidden layers, where the network of one tower has it before them.
        hidden: units of each of the two hidden layers.
        num_classes: 0 for a backbone alone.
        dropout: fraction of units that are zeroed in training (key `dropout`).
        remat: "none", or "full": a convolution's intermediates are computed again in the backward
            pass.
    """

    channels: tuple[int, ...] = ONE_TOWER
    two_towers: bool = False
    hidden: int = 4096
    num_classes: int = 0
    dropout: float = 0.5
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        features = self._convolutions(images, train)
        if 0 in features.shape:
            raise ValueError(
                f"images of {images.shape[1]}x{images.shape[2]} are too small for AlexNet: they "
                f"need {67 if self.two_towers else 63} pixels in each direction"
            )
        drop = partial(layers.Dropout(self.dropout), train=train)
        hidden = partial(layers.Linear, (self.hidden,), he_normal, self.dtype)
        x = adaptive_mean_pool(features, GRID)
        x = x.reshape(x.shape[0], -1)
        if self.two_towers:
            pooled = nn.relu(hidden(name="hidden2")(drop(nn.relu(hidden(name="hidden1")(x)))))
            inputs = drop(pooled)
        else:
            x = nn.relu(hidden(name="hidden1")(drop(x)))
            pooled = inputs = nn.relu(hidden(name="hidden2")(drop(x)))
        return {**layers.backbone_outputs(features, inputs, self.num_classes), "pooled": pooled}

    def _convolutions(self, x: AnyArray, train: bool) -> Array:
        towers = 2 if self.two_towers else 1
        stage = partial(layers.remat_block(Stage, self.remat), dtype=self.dtype)
        c1, c2, c3, c4, c5 = self.channels
        first = {"kernel_size": 11, "stride": 4, "padding": 0 if self.two_towers else 2}
        norm_and_pool = {"normalized": self.two_towers, "pooled": True}
        x = stage(c1, **first, **norm_and_pool, name="stage1")(x, train)
        x = stage(c2, kernel_size=5, groups=towers, **norm_and_pool, name="stage2")(x, train)
        x = stage(c3, name="stage3")(x, train)
        x = stage(c4, groups=towers, name="stage4")(x, train)
        return stage(c5, groups=towers, pooled=True, name="stage5")(x, train)
