"""MobileNet V3 (Howard et al. 2019, arXiv:1905.02244), large and small.

With the same weights it computes what torchvision and timm (`norm_eps=1e-5`; its `tf_` models:
`padding="same"`) compute.
"""

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
from jaxtag.models.registry import register_model

ACTIVATIONS = {"relu": nn.relu, "hard_swish": nn.hard_swish}

# Tables 1 and 2 of the paper: kernel, expanded channels, channels, squeeze-and-excite, activation,
# stride.
LARGE = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)
SMALL = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
)


@register_model("mobilenet_v3_large", blocks=LARGE, hidden=1280)
@register_model("mobilenet_v3_small", blocks=SMALL, hidden=1024)
class MobileNetV3(MobileNetBase):
    """A `MobileNetBase` of inverted residuals, some with squeeze-and-excite.

    `features` has D channels, `pooled` is `[B, hidden * width]`: the output of the hidden layer
    between mean and classifier.

    Attributes:
        blocks: (kernel, expanded channels, channels, squeeze-and-excite, activation, stride) of
            each.
        hidden: units of the hidden layer.
    """

    blocks: tuple[tuple[int, int, int, bool, str, int], ...] = LARGE
    hidden: int = 1280
    norm_eps: float = 1e-3
    norm_momentum: float = 0.99

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        conv = partial(ConvNorm, activation=nn.hard_swish, **self.common())
        stem = make_divisible(16 * self.width)
        x = conv(features=stem, kernel_size=3, stride=2, name="stem")(images, train)
        block = layers.remat_block(InvertedResidual, self.remat)
        for index, (kernel, expanded, channels, squeeze, activation, stride) in enumerate(
            self.blocks
        ):
            expanded = make_divisible(expanded * self.width)
            excite = partial(
                SqueezeExcite,
                make_divisible(expanded // 4),
                gate=nn.hard_sigmoid,
                dtype=self.dtype,
            )
            x = block(
                features=make_divisible(channels * self.width),
                expanded=expanded,
                kernel_size=kernel,
                stride=stride,
                activation=ACTIVATIONS[activation],
                excite=excite if squeeze else None,
                common=self.common(),
                name=f"block{index}",
            )(x, train)
        x = conv(features=6 * x.shape[-1], name="last")(x, train)
        units = make_divisible(self.hidden * self.width)
        hidden = layers.Linear((units,), dtype=self.dtype, name="hidden")
        pooled = nn.hard_swish(hidden(x.mean((1, 2))))
        return self.outputs(x, pooled, train)
