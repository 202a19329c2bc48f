"""SqueezeNet 1.0 (Iandola et al. 2016, arXiv:1602.07360) and its authors' cheaper 1.1.

With the same weights it computes what torchvision computes.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxtag.array_types import Images
from jaxtag.kernels import layers
from jaxtag.kernels.conv import Conv
from jaxtag.kernels.pooling import max_pool
from jaxtag.models.registry import register_model

# (squeezed, expanded) channels of each fire module, by stage (table 1 of the paper).
V1_0 = (
    ((16, 64), (16, 64), (32, 128)),
    ((32, 128), (48, 192), (48, 192), (64, 256)),
    ((64, 256),),
)
V1_1 = (
    ((16, 64), (16, 64)),
    ((32, 128), (32, 128)),
    ((48, 192), (48, 192), (64, 256), (64, 256)),
)

he_normal = nn.initializers.he_normal()


class Fire(nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 side by side, to `[B, H, W, 2 * expanded]`.

    Section 3.2 of the paper.
    """

    squeezed: int
    expanded: int
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], train: bool
    ) -> Float[Array, "B H W {2*self.expanded}"]:
        """`train` changes nothing: every family's blocks are called alike."""
        conv = partial(Conv, use_bias=True, kernel_init=he_normal, dtype=self.dtype)
        x = nn.relu(conv(self.squeezed, 1, name="squeeze")(x))
        narrow, wide = (conv(self.expanded, k, name=f"expand{k}x{k}")(x) for k in (1, 3))
        return nn.relu(jnp.concatenate([narrow, wide], axis=-1))


@register_model("squeezenet1_0", stem=(96, 7), stages=V1_0)
@register_model("squeezenet1_1", stem=(64, 3), stages=V1_1)
class SqueezeNet(nn.Module):
    """Normalized images to named outputs.

    `features` `[B, h, w, D]`, `pooled` `[B, D]` (their mean) and, with classes, `logits` float32
    `[B, num_classes]`. The classifier runs on each pixel of `features` (1x1 convolution and ReLU):
    the logits are the mean of its outputs. For images of 21 pixels or more (1.1: 17).

    Attributes:
        stem: (channels, kernel size) of the first convolution, with stride 2.
        stages: (squeezed, expanded) channels of each fire module; a max pool before each stage.
        num_classes: 0 for a backbone alone.
        dropout: fraction of `features` that the classifier does not see in training (key
            `dropout`).
        remat: "none", or "full": a fire module's intermediates are computed again in the backward
            pass.
    """

    stem: tuple[int, int] = (64, 3)
    stages: tuple[tuple[tuple[int, int], ...], ...] = V1_1
    num_classes: int = 0
    dropout: float = 0.5
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        channels, kernel_size = self.stem
        stem = Conv(channels, kernel_size, 2, 0, 1, True, he_normal, self.dtype, name="stem")
        x = nn.relu(stem(images))
        fire = layers.remat_block(Fire, self.remat)
        for stage, sizes in enumerate(self.stages, start=1):
            x = max_pool(x, 3, 2, ceil=True)
            for index, (squeezed, expanded) in enumerate(sizes):
                x = fire(squeezed, expanded, self.dtype, name=f"stage{stage}_{index}")(x, train)
        if 0 in x.shape:
            size = f"{images.shape[1]}x{images.shape[2]}"
            raise ValueError(f"images of {size} are too small for SqueezeNet: give larger ones")
        outputs = {"features": x, "pooled": x.mean((1, 2))}
        if self.num_classes:
            # The last ReLU needs values to either side of 0: the head must not start as zeros.
            init = nn.initializers.normal(0.01)
            head = layers.Linear((self.num_classes,), init, self.dtype, name="head")
            scores = nn.relu(head(layers.Dropout(self.dropout)(x, train)))
            outputs["logits"] = scores.astype(jnp.float32).mean((1, 2))
        return outputs
