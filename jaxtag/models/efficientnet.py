"""EfficientNet (Tan and Le 2019, arXiv:1905.11946), B0 to B7 by compound scaling.

With the same weights it computes what torchvision, timm (its `tf_` models: `padding="same"`,
`norm_eps=1e-3`) and `transformers.EfficientNetModel` (the same fields as `tf_`) compute.
"""

import math
from functools import partial

import flax.linen as nn
import jax

from jaxtag.kernels import layers
from jaxtag.models.mobile_blocks import (
    ConvNorm,
    InvertedResidual,
    MobileNetBase,
    SqueezeExcite,
    make_divisible,
)
from jaxtag.models.preprocessing import Preprocessing

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
    """A `SmallNetwork` of inverted residuals with squeeze-and-excite.

    Fields:
      stages: (expansion, kernel, stride of the first block, channels, blocks) of each.
      depth: multiplies the blocks of every stage.
      drop_path: how often the last block's branch is dropped in training; growing from 0.
    """

    stages: tuple[tuple[int, int, int, int, int], ...] = STAGES
    depth: float = 1.0
    drop_path: float = 0.2

    def repeats(self) -> list[int]:
        """The blocks of each stage."""
        return [math.ceil(stage[-1] * self.depth) for stage in self.stages]

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        conv = partial(ConvNorm, activation=nn.silu, **self.common())
        excite = partial(SqueezeExcite, activation=nn.silu, dtype=self.dtype)
        x = conv(make_divisible(32 * self.width), 3, 2, name="stem")(images, train)
        block = layers.remat_block(InvertedResidual, self.remat)
        repeats, before = self.repeats(), 0
        for stage, (expansion, kernel, stride, channels, _) in enumerate(self.stages):
            for index in range(repeats[stage]):
                x = block(
                    features=make_divisible(channels * self.width),
                    expanded=x.shape[-1] * expansion,
                    kernel_size=kernel,
                    stride=1 if index else stride,
                    activation=nn.silu,
                    excite=partial(excite, max(1, x.shape[-1] // 4)),
                    drop_path=self.drop_path * before / sum(repeats),
                    common=self.common(),
                    name=f"stage{stage + 1}_{index}",
                )(x, train)
                before += 1
        x = conv(make_divisible(1280 * self.width), name="last")(x, train)
        return self.classified(x, x.mean((1, 2)), train)


# Width, depth, dropout; image size, shorter side before the middle is taken (torchvision's).
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
MODELS = {
    f"efficientnet_b{size}": (
        EfficientNet,
        {"width": width, "depth": depth, "dropout": dropout, **(_LARGE_NORM if size >= 5 else {})},
        Preprocessing(image_size=image, interpolation="bicubic", crop=image / before),
    )
    for size, (width, depth, dropout, image, before) in enumerate(_SIZES)
}
