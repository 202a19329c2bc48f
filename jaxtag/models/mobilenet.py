"""MobileNet V1 (Howard et al. 2017, arXiv:1704.04861) and V2 (Sandler et al. 2018,
arXiv:1801.04381).

With the same weights V1 computes what `transformers.MobileNetV1Model` and (with `padding=None`,
`norm_eps=1e-5`) timm compute, V2 what torchvision, timm and (with `padding="same"`,
`norm_eps=1e-3`) `transformers.MobileNetV2Model` compute.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxtag.kernels import layers
from jaxtag.models.mobile_blocks import ConvNorm, InvertedResidual, MobileNetBase, make_divisible
from jaxtag.models.preprocessing import Preprocessing

V1_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Separable(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution: `[B, H, W, C]` to
    `[B, H / stride, W / stride, features]`."""

    features: int
    stride: int
    common: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(ConvNorm, activation=nn.relu6, **self.common)
        channels = x.shape[-1]
        x = conv(channels, 3, self.stride, groups=channels, name="depthwise")(x, train)
        return conv(self.features, name="pointwise")(x, train)


class MobileNetV1(MobileNetBase):
    """A `SmallNetwork` of separable convolutions (table 1 of the paper).

    The published weights were trained with TensorFlow: hence the defaults of `padding` and
    `norm_eps`. Widths are cut to whole numbers, at least 8, as that code does.

    Fields:
      stages: (channels, blocks, stride of the first) of each.
    """

    stages: tuple[tuple[int, int, int], ...] = V1_STAGES
    dropout: float = 0.001
    padding: str | None = "same"
    norm_eps: float = 1e-3

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        def scaled(channels: int) -> int:
            return max(8, int(channels * self.width))

        stem = ConvNorm(scaled(32), 3, 2, activation=nn.relu6, **self.common(), name="stem")
        x = stem(images, train)
        block = layers.remat_block(Separable, self.remat)
        for stage, (channels, repeats, stride) in enumerate(self.stages):
            for index in range(repeats):
                fields = (scaled(channels), 1 if index else stride, self.common())
                x = block(*fields, name=f"stage{stage + 1}_{index}")(x, train)
        return self.classified(x, x.mean((1, 2)), train)


class MobileNetV2(MobileNetBase):
    """A `SmallNetwork` of inverted residuals (table 2 of the paper).

    Fields:
      stages: (expansion, channels, blocks, stride of the first) of each.
    """

    stages: tuple[tuple[int, int, int, int], ...] = V2_STAGES

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        conv = partial(ConvNorm, activation=nn.relu6, **self.common())
        x = conv(make_divisible(32 * self.width), 3, 2, name="stem")(images, train)
        block = layers.remat_block(InvertedResidual, self.remat)
        for stage, (expansion, channels, repeats, stride) in enumerate(self.stages):
            for index in range(repeats):
                x = block(
                    features=make_divisible(channels * self.width),
                    expanded=x.shape[-1] * expansion,
                    kernel_size=3,
                    stride=1 if index else stride,
                    activation=nn.relu6,
                    common=self.common(),
                    name=f"stage{stage + 1}_{index}",
                )(x, train)
        # The last layer does not become narrower than the paper's (section 4.2 there).
        x = conv(make_divisible(1280 * max(1.0, self.width)), name="last")(x, train)
        return self.classified(x, x.mean((1, 2)), train)


_HALF = (0.5, 0.5, 0.5)
MODELS = {
    "mobilenet_v1": (MobileNetV1, {}, Preprocessing(mean=_HALF, std=_HALF)),
    "mobilenet_v2": (MobileNetV2, {}, Preprocessing()),
}
