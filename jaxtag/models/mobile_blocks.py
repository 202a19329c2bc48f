"""Blocks of the families of small networks: MobileNet V1, V2, V3 and EfficientNet."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxtag.array_types import Images
from jaxtag.kernels import layers
from jaxtag.kernels.batch_norm import BatchNorm
from jaxtag.kernels.conv import Conv

Activation = Callable[[Array], Array]


def make_divisible(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and not below nine tenths of `channels`.

    As the code of MobileNet V2, V3 and EfficientNet rounds widths.
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation: `[B, H, W, C]` to `[B, H', W', features]`."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    activation: Activation | None = None
    padding: str | None = None
    norm: Mapping[str, Any] = FrozenDict()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Images, train: bool) -> Float[Array, "B h w {self.features}"]:
        size = (self.kernel_size, self.stride, self.padding, self.groups)
        x = Conv(self.features, *size, dtype=self.dtype, name="conv")(x)
        x = BatchNorm(**self.norm, dtype=self.dtype, name="norm")(x, train)
        return self.activation(x) if self.activation else x


class SqueezeExcite(nn.Module):
    """Weights each channel by the content of the whole image.

    Hu et al. 2018, arXiv:1709.01507, section 3: mean, `squeezed` channels, C weights.
    """

    squeezed: int
    activation: Activation = nn.relu
    gate: Activation = nn.sigmoid
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        conv = partial(Conv, kernel_size=1, use_bias=True, dtype=self.dtype)
        y = x.mean((1, 2), keepdims=True)
        y = self.activation(conv(features=self.squeezed, name="reduce")(y))
        return x * self.gate(conv(features=x.shape[-1], name="expand")(y))


class InvertedResidual(nn.Module):
    """`[B, H, W, C]` to `[B, H / stride, W / stride, features]`, wide between and narrow outside.

    Sandler et al. 2018, arXiv:1801.04381, section 3.3: 1x1 to `expanded` channels (left out where
    they are C), depthwise, squeeze-and-excite (V3 and EfficientNet), 1x1 without activation; added
    to its input where the shapes agree.

    Attributes:
        common: `MobileNetBase.common`.
        excite: creates the squeeze-and-excite, called with `name`; None for none.
        drop_path: probability of dropping an example's branch in training.
    """

    features: int
    expanded: int
    kernel_size: int
    stride: int
    activation: Activation
    common: Mapping[str, Any]
    excite: Callable[..., nn.Module] | None = None
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], train: bool
    ) -> Float[Array, "B h w {self.features}"]:
        conv = partial(ConvNorm, **self.common)
        y = x
        if self.expanded != x.shape[-1]:
            y = conv(features=self.expanded, activation=self.activation, name="expand")(y, train)
        y = conv(
            features=self.expanded,
            kernel_size=self.kernel_size,
            stride=self.stride,
            groups=self.expanded,
            activation=self.activation,
            name="depthwise",
        )(y, train)
        if self.excite:
            y = self.excite(name="squeeze_excite")(y)
        y = conv(features=self.features, name="project")(y, train)
        if self.stride > 1 or x.shape[-1] != self.features:
            return y
        if self.drop_path:
            y = layers.DropPath(name="drop_path")(y, self.drop_path, train)
        return x + y


class MobileNetBase(nn.Module):
    """Base of the families: normalized images to named outputs.

    `features` `[B, H / 32, W / 32, D]`, `pooled` `[B, D]` and, with classes, `logits` float32
    `[B, num_classes]`.

    Attributes:
        num_classes: 0 for a backbone alone.
        width: multiplies the channels of every layer.
        dropout: fraction of `pooled` that the classifier does not see in training (key `dropout`).
        padding: None (kernel / 2 on each side, PyTorch's code) or "same" (TensorFlow's).
        norm_eps: of `BatchNorm`, as `norm_momentum` and `norm_groups`.
        remat: "none", or "full": a block's intermediates are computed again in the backward pass.
    """

    num_classes: int = 0
    width: float = 1.0
    dropout: float = 0.2
    padding: str | None = None
    norm_eps: float = 1e-5
    norm_momentum: float = 0.9
    norm_groups: int = 1
    remat: str = "none"
    dtype: Dtype = jnp.float32

    def common(self) -> dict[str, Any]:
        """Fields of every `ConvNorm`."""
        norm = {
            "momentum": self.norm_momentum,
            "epsilon": self.norm_eps,
            "groups": self.norm_groups,
        }
        return {"norm": norm, "padding": self.padding, "dtype": self.dtype}

    def outputs(
        self, features: Float[Array, "B h w D"], pooled: Float[Array, "B P"], train: bool
    ) -> dict[str, Array]:
        """The named outputs; only the classifier's input goes through dropout."""
        inputs = layers.Dropout(self.dropout)(pooled, train) if self.num_classes else pooled
        outputs = layers.backbone_outputs(features, inputs, self.num_classes)
        return {**outputs, "pooled": pooled}
