"""EfficientNet (Tan and Le 2019, arXiv:1905.11946), B0 to B7 and Lite0 to Lite4.

With the same weights it computes what torchvision, timm (its `tf_` models: `padding="same"`,
`norm_eps=1e-3`) and `transformers.EfficientNetModel` (the same fields as `tf_`) compute.
"""

import math
from functools import partial

import flax.linen as nn
from jaxtyping import Array

from jaxtag.array_types import Images
from jaxtag.kernels import layers
from jaxtag.models.mobile_blocks import (
    ConvNorm,
    InvertedResidual,
    MobileNetBase,
    SqueezeExcite,
    make_divisible,
)
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.registry import register_model

# Table 1 of the paper: expansion, kernel, stride of the first block, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNet(MobileNetBase):
    """A `MobileNetBase` of inverted residuals with squeeze-and-excite.

    Attributes:
        stages: (expansion, kernel, stride of the first block, channels, blocks) of each.
        depth: multiplies the blocks of every stage.
        drop_path: probability of dropping the last block's branch in training, growing from 0.
        lite: EfficientNet-Lite, for integer arithmetic: ReLU6 in place of SiLU, no
            squeeze-and-excite, and stem, first and last stage and head as in B0, but that the last
            stage has `width`.
    """

    stages: tuple[tuple[int, int, int, int, int], ...] = STAGES
    depth: float = 1.0
    drop_path: float = 0.2
    lite: bool = False

    def repeats(self) -> list[int]:
        """The blocks of each stage."""
        counts = [math.ceil(stage[-1] * self.depth) for stage in self.stages]
        if self.lite:
            counts[0], counts[-1] = self.stages[0][-1], self.stages[-1][-1]
        return counts

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        activation = nn.relu6 if self.lite else nn.silu
        conv = partial(ConvNorm, activation=activation, **self.common())
        excite = partial(SqueezeExcite, activation=activation, dtype=self.dtype)
        ends_width = 1.0 if self.lite else self.width
        stem = make_divisible(32 * ends_width)
        x = conv(features=stem, kernel_size=3, stride=2, name="stem")(images, train)
        block = layers.remat_block(InvertedResidual, self.remat)
        repeats, num_blocks = self.repeats(), 0
        for stage, (expansion, kernel, stride, channels, _) in enumerate(self.stages):
            for index in range(repeats[stage]):
                x = block(
                    features=make_divisible(channels * self.width),
                    expanded=x.shape[-1] * expansion,
                    kernel_size=kernel,
                    stride=1 if index else stride,
                    activation=activation,
                    excite=None if self.lite else partial(excite, max(1, x.shape[-1] // 4)),
                    drop_path=self.drop_path * num_blocks / sum(repeats),
                    common=self.common(),
                    name=f"stage{stage + 1}_{index}",
                )(x, train)
                num_blocks += 1
        x = conv(features=make_divisible(1280 * ends_width), name="last")(x, train)
        return self.outputs(x, x.mean((1, 2)), train)


# Width, depth, dropout; image size, shorter side before the center crop (torchvision's).
_SIZES = (
    (1.0, 1.0, 0.2, 224, 256),
    (1.0, 1.1, 0.2, 240, 256),
    (1.1, 1.2, 0.3, 288, 288),
    (1.2, 1.4, 0.3, 300, 320),
    (1.4, 1.8, 0.4, 380, 384),
    (1.6, 2.2, 0.4, 456, 456),
    (1.8, 2.6, 0.5, 528, 528),
    (2.0, 3.1, 0.5, 600, 600),
)
_LARGE_NORM = {"norm_eps": 1e-3, "norm_momentum": 0.99}  # torchvision's, from B5 on
for _size, (_width, _depth, _dropout, _image_size, _resize) in enumerate(_SIZES):
    register_model(
        f"efficientnet_b{_size}",
        Preprocessing(_image_size, interpolation="bicubic", crop=_image_size / _resize),
        width=_width,
        depth=_depth,
        dropout=_dropout,
        **(_LARGE_NORM if _size >= 5 else {}),
    )(EfficientNet)

# Width, depth, dropout; image size, shorter side before the center crop (the authors').
_LITE_SIZES = (
    (1.0, 1.0, 0.2, 224, 256),
    (1.0, 1.1, 0.2, 240, 272),
    (1.1, 1.2, 0.3, 260, 292),
    (1.2, 1.4, 0.3, 280, 312),
    (1.4, 1.8, 0.3, 300, 332),
)
for _size, (_width, _depth, _dropout, _image_size, _resize) in enumerate(_LITE_SIZES):
    register_model(
        f"efficientnet_lite{_size}",
        Preprocessing(
            _image_size,
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
            interpolation="bicubic",
            crop=_image_size / _resize,
        ),
        lite=True,
        width=_width,
        depth=_depth,
        dropout=_dropout,
        padding="same",
        norm_eps=1e-3,
        norm_momentum=0.99,
    )(EfficientNet)
