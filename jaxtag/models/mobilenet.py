"""MobileNet V1 (Howard et al. 2017, arXiv:1704.04861) and V2 (Sandler et al. 2018,
arXiv:1801.04381).

With the same weights V1 computes what `transformers.MobileNetV1Model` and (with `padding=None`,
`norm_eps=1e-5`) timm compute, V2 what torchvision, timm and (with `padding="same"`,
`norm_eps=1e-3`) `transformers.MobileNetV2Model` compute.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxtag.array_types import Images
from jaxtag.kernels import layers
from jaxtag.models.mobile_blocks import ConvNorm, InvertedResidual, MobileNetBase, make_divisible
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.registry import register_model

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
    """A depthwise 3x3 and a 1x1 convolution, to `[B, H / stride, W / stride, features]`."""

    features: int
    stride: int
    common: Mapping[str, Any]

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], train: bool
    ) -> Float[Array, "B h w {self.features}"]:
        conv = partial(ConvNorm, activation=nn.relu6, **self.common)
        channels = x.shape[-1]
        depthwise = conv(
            features=channels, kernel_size=3, stride=self.stride, groups=channels, name="depthwise"
        )
        return conv(features=self.features, name="pointwise")(depthwise(x, train), train)


@register_model("mobilenet_v1", Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3))
class MobileNetV1(MobileNetBase):
    """A `MobileNetBase` of separable convolutions (table 1 of the paper).

    The published weights were trained with TensorFlow: hence the defaults of `padding` and
    `norm_eps`. Widths are rounded down, to at least 8, as in that code.

    Attributes:
        stages: (channels, blocks, stride of the first) of each.
    """

    stages: tuple[tuple[int, int, int], ...] = V1_STAGES
    dropout: float = 0.001
    padding: str | None = "same"
    norm_eps: float = 1e-3

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        def scaled(channels: int) -> int:
            return max(8, int(channels * self.width))

        stem = ConvNorm(scaled(32), 3, 2, activation=nn.relu6, **self.common(), name="stem")
        x = stem(images, train)
        block = layers.remat_block(Separable, self.remat)
        for stage, (channels, repeats, stride) in enumerate(self.stages):
            for index in range(repeats):
                fields = (scaled(channels), 1 if index else stride, self.common())
                x = block(*fields, name=f"stage{stage + 1}_{index}")(x, train)
        return self.outputs(x, x.mean((1, 2)), train)


@register_model("mobilenet_v2")
class MobileNetV2(MobileNetBase):
    """A `MobileNetBase` of inverted residuals (table 2 of the paper).

    Attributes:
        stages: (expansion, channels, blocks, stride of the first) of each.
    """

    stages: tuple[tuple[int, int, int, int], ...] = V2_STAGES

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        conv = partial(ConvNorm, activation=nn.relu6, **self.common())
        stem = make_divisible(32 * self.width)
        x = conv(features=stem, kernel_size=3, stride=2, name="stem")(images, train)
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
        last = make_divisible(1280 * max(1.0, self.width))
        x = conv(features=last, name="last")(x, train)
        return self.outputs(x, x.mean((1, 2)), train)
