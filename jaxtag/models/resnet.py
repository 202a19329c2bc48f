"""ResNet (He et al. 2016, arXiv:1512.03385), v1.5: the 3x3 convolution of a bottleneck strides.

With the same weights it computes what torchvision, timm and `transformers.ResNetModel` compute.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxtag.array_types import Images
from jaxtag.kernels import layers
from jaxtag.kernels.batch_norm import BatchNorm
from jaxtag.kernels.conv import Conv
from jaxtag.kernels.pooling import max_pool
from jaxtag.models.registry import register_model

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """`[B, H, W, C]` to `[B, H / stride, W / stride, width * expansion]`.

    The scale of the last norm starts at 0, so that each block starts as the identity (Goyal et al.
    2017, arXiv:1706.02677, section 5.1).

    Attributes:
        bottleneck: 1x1, 3x3, 1x1 with four times the channels at the end; else two of 3x3.
    """

    width: int
    stride: int
    bottleneck: bool
    norm: Mapping[str, Any]
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, **self.norm, dtype=self.dtype)
        last = partial(norm, scale_init=nn.initializers.zeros)
        out = self.width * (4 if self.bottleneck else 1)
        shortcut = x
        if self.stride > 1 or x.shape[-1] != out:
            shortcut = conv(out, 1, self.stride, name="shortcut")(x)
            shortcut = norm(name="shortcut_norm")(shortcut, train)
        if self.bottleneck:
            y = nn.relu(norm(name="norm1")(conv(self.width, 1, name="conv1")(x), train))
            y = conv(self.width, 3, self.stride, name="conv2")(y)
            y = nn.relu(norm(name="norm2")(y, train))
            y = last(name="norm3")(conv(out, 1, name="conv3")(y), train)
        else:
            y = conv(self.width, 3, self.stride, name="conv1")(x)
            y = nn.relu(norm(name="norm1")(y, train))
            y = last(name="norm2")(conv(out, 3, name="conv2")(y), train)
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """Normalized images to named outputs.

    `features` `[B, H / 32, W / 32, D]`, `pooled` `[B, D]` (their mean) and, with classes, `logits`
    float32 `[B, num_classes]`.

    Attributes:
        depths: blocks in each of the four stages.
        num_classes: 0 for a backbone alone.
        small_images: a stem for images of some 32 pixels: 3x3 without a stride, and no pooling
            (He et al. 2016, section 4.2).
        norm_momentum: of `BatchNorm`, as `norm_groups`.
        remat: "none", or "full": a block's intermediates are computed again in the backward pass.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    num_classes: int = 0
    small_images: bool = False
    norm_momentum: float = 0.9
    norm_groups: int = 1
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        norm: dict[str, Any] = {"momentum": self.norm_momentum, "groups": self.norm_groups}
        kernel_size, stride = (3, 1) if self.small_images else (7, 2)
        x = Conv(64, kernel_size, stride, dtype=self.dtype, name="stem")(images)
        x = nn.relu(BatchNorm(**norm, dtype=self.dtype, name="stem_norm")(x, train))
        if not self.small_images:
            x = max_pool(x, 3, 2, padding=1)
        block = layers.remat_block(Block, self.remat)
        for stage, (width, depth) in enumerate(zip(WIDTHS, self.depths, strict=True)):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                fields = (width, stride, self.bottleneck, norm, self.dtype)
                x = block(*fields, name=f"stage{stage + 1}_{index}")(x, train)
        return layers.backbone_outputs(x, x.mean((1, 2)), self.num_classes)


register_model("resnet18", bottleneck=False, depths=(2, 2, 2, 2))(ResNet)
register_model("resnet34", bottleneck=False, depths=(3, 4, 6, 3))(ResNet)
register_model("resnet50", depths=(3, 4, 6, 3))(ResNet)
register_model("resnet101", depths=(3, 4, 23, 3))(ResNet)
register_model("resnet152", depths=(3, 8, 36, 3))(ResNet)
