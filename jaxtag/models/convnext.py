"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545) and ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808).

With the same weights it computes what timm and `transformers.ConvNextModel`, `ConvNextV2Model`
compute.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxtag.array_types import Images
from jaxtag.distributed import mesh
from jaxtag.kernels import layers
from jaxtag.kernels.conv import Conv
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.registry import register_model

_init = nn.initializers.truncated_normal(0.02)
_GRN_EPS = 1e-6


class GlobalResponseNorm(nn.Module):
    """Weights each channel by its share of the image's response (Woo et al. 2023, section 3)."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        scale = jnp.asarray(self.param("scale", nn.initializers.zeros, x.shape[-1:]))
        bias = jnp.asarray(self.param("bias", nn.initializers.zeros, x.shape[-1:]))
        squares = jnp.square(x.astype(jnp.float32)).sum((1, 2), keepdims=True)
        norms = jnp.sqrt(jnp.maximum(squares, 1e-24))  # its gradient at 0 is 0
        shares = norms / (norms.mean(-1, keepdims=True) + _GRN_EPS)
        return x * (1 + scale * shares).astype(x.dtype) + bias.astype(x.dtype)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, norm, two projections through four times the channels; residual.

    Attributes:
        rate: probability of dropping an example's branch in training.
    """

    grn: bool
    layer_scale: float | None
    activation: str
    norm_eps: float
    rate: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        x = mesh.constrain_batch(x)
        channels = x.shape[-1]
        linear = partial(layers.Linear, kernel_init=_init, dtype=self.dtype)
        depthwise = partial(Conv, channels, 7, groups=channels, use_bias=True, kernel_init=_init)
        y = depthwise(dtype=self.dtype, name="depthwise")(x)
        y = layers.LayerNorm(self.norm_eps, self.dtype, name="norm")(y)
        y = linear((4 * channels,), name="fc1")(y)
        y = layers.get_activation(self.activation)(y)
        if self.grn:
            y = GlobalResponseNorm(name="grn")(y)
        y = linear((channels,), name="fc2")(y)
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            y = y * self.param("scale", init, (channels,)).astype(y.dtype)
        return x + layers.DropPath()(y, self.rate, train) if self.rate else x + y


class ConvNeXt(nn.Module):
    """Normalized images to named outputs.

    `features` `[B, H / 32, W / 32, D]`, `pooled` `[B, D]` (the norm of their mean) and, with
    classes, `logits` float32 `[B, num_classes]`.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage.
        num_classes: 0 for a backbone alone.
        grn: V2's global response norm.
        layer_scale: of each block's branch at the start; None (as in V2) for none.
        activation: one of `layers.ACTIVATIONS`.
        drop_path: probability of dropping the last block's branch in training, growing from 0.
        norm_eps: of the norms but the last, which has `last_norm_eps` (transformers' differ).
        remat: "none", or "full": a block's intermediates are computed again in the backward pass.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    num_classes: int = 0
    grn: bool = False
    layer_scale: float | None = 1e-6
    activation: str = "gelu"
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    last_norm_eps: float = 1e-6
    remat: str = "none"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        conv = partial(Conv, padding=0, use_bias=True, kernel_init=_init, dtype=self.dtype)
        norm = partial(layers.LayerNorm, self.norm_eps, self.dtype)
        block = layers.remat_block(ConvNeXtBlock, self.remat)
        x = conv(self.widths[0], 4, 4, name="stem")(images)
        x = norm(name="stem_norm")(x)
        last, number = max(sum(self.depths) - 1, 1), 0
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            if stage > 1:
                x = norm(name=f"downsample{stage}_norm")(x)
                x = conv(width, 2, 2, name=f"downsample{stage}")(x)
            for index in range(depth):
                x = block(
                    grn=self.grn,
                    layer_scale=self.layer_scale,
                    activation=self.activation,
                    norm_eps=self.norm_eps,
                    rate=self.drop_path * number / last,
                    dtype=self.dtype,
                    name=f"stage{stage}_{index}",
                )(x, train)
                number += 1
        pooled = layers.LayerNorm(self.last_norm_eps, self.dtype, name="norm")(x.mean((1, 2)))
        return layers.backbone_outputs(x, pooled, self.num_classes)


# Liu et al. 2022, section 2; Woo et al. 2023, appendix A.1.
_SIZES = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnextv2_nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "convnextv2_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnextv2_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}
for _name, (_depths, _widths) in _SIZES.items():
    _V2 = {"grn": True, "layer_scale": None} if _name.startswith("convnextv2") else {}
    register_model(
        _name,
        Preprocessing(interpolation="bicubic"),
        depths=_depths,
        widths=_widths,
        **_V2,
    )(ConvNeXt)
