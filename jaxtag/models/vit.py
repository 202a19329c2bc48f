"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), pre-norm, for any image size.

With the same weights it computes what `transformers.ViTModel` computes, and as the image tower of a
CLIP or SigLIP what timm's `vit_base_patch16_clip_224` and `vit_base_patch16_siglip_224` compute:
`pooled` is the embedding before CLIP's projection (the class token) or after SigLIP's
attention-pooling head, and `features` are all tokens after the last norm.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype
from jaxtyping import Array, Float, PRNGKeyArray

from jaxtag.array_types import AnyArray
from jaxtag.kernels import layers
from jaxtag.kernels.conv import Conv
from jaxtag.models.attention_pool import AttentionPool
from jaxtag.models.encoder_block import EncoderBlock
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.registry import register_model

# Dosovitskiy et al. 2021, table 1; tiny and small: Touvron et al. 2021 (arXiv:2012.12877); so400m:
# Alabdulmohsin et al. 2023 (arXiv:2305.13035); giant: Zhai et al. 2022 (arXiv:2106.04560), table 2.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "depth": 12, "heads": 3, "mlp_dim": 768},
    "small": {"width": 384, "depth": 12, "heads": 6, "mlp_dim": 1536},
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
    "so400m": {"width": 1152, "depth": 27, "heads": 16, "mlp_dim": 4304},
    "huge": {"width": 1280, "depth": 32, "heads": 16, "mlp_dim": 5120},
    "giant": {"width": 1408, "depth": 40, "heads": 16, "mlp_dim": 6144},
}
PATCHES = {
    **dict.fromkeys(("tiny", "small", "base", "large"), (8, 14, 16, 32)),
    **dict.fromkeys(("so400m", "huge", "giant"), (14, 16)),
}


class PatchEmbed(nn.Module):
    """Images to patches `[B, H // p * W // p, width]`, as one matrix product."""

    patch_size: int
    width: int
    dtype: Dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N {self.width}"]:
        batch, height, width, channels = images.shape
        p = self.patch_size
        h, w = height // p, width // p
        # The kernel keeps a convolution's shape: other libraries' weights are such kernels.
        kernel = self.param("kernel", _patch_init, (p, p, channels, self.width))
        x = images[:, : h * p, : w * p].astype(self.dtype)
        x = x.reshape(batch, h, p, w, p, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, h * w, p * p * channels)
        x = x @ kernel.reshape(-1, self.width).astype(self.dtype)
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return x + bias.astype(self.dtype)


class ConvStem(nn.Module):
    """Images to patches `[B, H // p * W // p, width]`, by small steps.

    Convolutions of 3x3 with stride 2, each doubling the channels, and a projection (Xiao et al.
    2021, arXiv:2106.14881, section 4), with a layer norm over the channels in place of their batch
    norm. It learns from few images what a projection of whole patches needs many for.
    """

    patch_size: int
    width: int
    dtype: Dtype

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B N {self.width}"]:
        stages = self.patch_size.bit_length() - 1
        if self.patch_size != 2**stages:
            raise ValueError(f"a conv stem needs a patch size of 2^n, got {self.patch_size}")
        p = self.patch_size
        h, w = images.shape[1] // p, images.shape[2] // p
        x = images[:, : h * p, : w * p].astype(self.dtype)
        for stage in range(stages):
            channels = max(self.width >> (stages - 1 - stage), 8)
            x = Conv(channels, 3, 2, dtype=self.dtype, name=f"conv_{stage}")(x)
            x = layers.LayerNorm(1e-6, self.dtype, name=f"norm_{stage}")(x)
            x = jax.nn.relu(x)
        x = x.reshape(x.shape[0], h * w, -1)
        return layers.Linear((self.width,), dtype=self.dtype, name="project")(x)


class ViT(nn.Module):
    """Normalized images to named outputs.

    `features` [B, N, D] (after the last norm; class token, distillation token, registers and
    patches, what there is of them), `grid` [B, h, w, D] (the patches alone), `pooled` [B, D], and
    `logits` [B, num_classes] (float32).

    Attributes:
        image_size: the size (or height and width) of the position embeddings; any other size at
            call interpolates them bicubically, with antialiasing where there are registers (as
            transformers and timm do). Pixels beyond a whole number of patches are cut off.
        stem: "patch" (one projection of each patch) or "conv" (`ConvStem`).
        class_token: a learned first token; `pool="cls"` needs it.
        distilled: a distillation token after the class token, with a head of its own; `logits` are
            the mean of both heads' (Touvron et al. 2021, arXiv:2012.12877, section 4).
        registers: learned tokens without positions before the patches (Darcet et al. 2024,
            arXiv:2309.16588).
        no_embed_class: the patches alone have positions, the class token has none.
        patch_bias: the projection of patches has a bias (CLIP's has none).
        pre_norm: a layer norm before the first layer too (CLIP).
        pool: "cls" (the class token), "gap" (the mean over the patches), "cls_gap" (both side by
            side, `pooled` [B, 2 D]) or "map" (`AttentionPool`, SigLIP).
        fc_norm: the last norm is over `pooled` instead, and `features` are without.
        num_classes: 0 for a backbone alone; else there is a linear head over `pooled`.
        activation: of the feed-forward, as `layer_scale`: see `EncoderBlock`.
        drop_path: the rate of the last layer, growing linearly from 0 at the first.
        dtype: of the computation; parameters are float32.
        scan: one scan over layers with stacked parameters, instead of a layer after the other.
        remat: "none", "dots" or "full" (`layers.REMAT_POLICIES`).
    """

    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    image_size: int | tuple[int, int] = 224
    stem: str = "patch"
    class_token: bool = True
    distilled: bool = False
    registers: int = 0
    no_embed_class: bool = False
    pool: str = "cls"
    patch_bias: bool = True
    pre_norm: bool = False
    fc_norm: bool = False
    num_classes: int = 0
    activation: str = "gelu"
    layer_scale: float | None = None
    dropout: float = 0.0
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    dtype: Dtype = jnp.float32
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, images: Float[AnyArray, "..."], train: bool = False) -> dict[str, Array]:
        self._check(images)
        x, (h, w) = self._embed(jnp.asarray(images))
        if self.pre_norm:
            x = layers.LayerNorm(self.norm_eps, self.dtype, name="pre_norm")(x)
        x = layers.Dropout(self.dropout)(x, train)
        x = self._encode(x, train)
        norm = layers.LayerNorm(self.norm_eps, self.dtype, name="norm")
        x = x if self.fc_norm else norm(x)
        patches = x[:, self.num_prefix_tokens :]
        pooled = self._pool(x, patches)
        outputs = layers.backbone_outputs(
            x, norm(pooled) if self.fc_norm else pooled, self.num_classes
        )
        if self.distilled and self.num_classes:
            head = layers.Linear((self.num_classes,), nn.initializers.zeros, name="head_dist")
            outputs["logits"] = (outputs["logits"] + head(x[:, 1].astype(jnp.float32))) / 2
        return outputs | {"grid": patches.reshape(x.shape[0], h, w, self.width)}

    @property
    def num_positioned_tokens(self) -> int:
        """How many tokens before the patches have positions."""
        return 0 if self.no_embed_class else self.class_token + self.distilled

    @property
    def num_prefix_tokens(self) -> int:
        """How many tokens are before the patches."""
        return self.class_token + self.distilled + self.registers

    def _pool(self, x: Array, patches: Array) -> Array:
        if self.pool == "cls":
            return x[:, 0]
        if self.pool == "map":
            fields = (self.heads, self.mlp_dim, self.norm_eps, self.activation, self.dtype)
            return AttentionPool(*fields, name="pool")(x)
        mean = patches.mean(1)
        return mean if self.pool == "gap" else jnp.concatenate([x[:, 0], mean], -1)

    def _check(self, images: AnyArray) -> None:
        if images.ndim != 4 or any(side < self.patch_size for side in images.shape[1:3]):
            raise ValueError(
                f"images must be [B, H, W, C] with sides of at least {self.patch_size} pixels "
                f"(one patch), got shape {images.shape}"
            )
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.stem not in STEMS:
            raise ValueError(f"stem must be one of {', '.join(STEMS)}; got {self.stem!r}")
        if self.pool not in POOLS or ("cls" in self.pool and not self.class_token):
            raise ValueError(
                'pool must be "cls", "cls_gap" (both with class_token=True), "gap" or "map"; got '
                f"pool={self.pool!r}, class_token={self.class_token}"
            )
        if self.distilled and not self.class_token:
            raise ValueError("distilled=True needs class_token=True")

    def _embed(self, images: Array) -> tuple[Array, tuple[Any, Any]]:
        """Patches as a matrix product, class token, positions: `[B, N, D]`, and the grid."""
        batch, p = images.shape[0], self.patch_size
        h, w = images.shape[1] // p, images.shape[2] // p
        fields = {} if self.patch_bias else {"use_bias": False}
        x = STEMS[self.stem](p, self.width, self.dtype, **fields, name="patch_embed")(images)
        size = self.image_size
        rows, columns = (s // p for s in ((size, size) if isinstance(size, int) else size))
        extra = self.num_positioned_tokens
        positions = self.param("pos_embed", _init_positions, (rows, columns), extra, self.width)
        grid = interpolate_positions(
            positions[extra:].reshape(rows, columns, -1), (h, w), antialias=self.registers > 0
        )
        grid = grid.reshape(h * w, -1)
        x = layers.add_broadcast(x, grid)
        if prefix := self._prefix_tokens(positions[:extra]):
            tokens = jnp.concatenate(prefix).astype(self.dtype)
            tokens = jnp.broadcast_to(tokens, (batch, *tokens.shape))
            x = jnp.concatenate([tokens, x], axis=1)
        return x, (h, w)

    def _prefix_tokens(self, positions: AnyArray) -> list[Array]:
        """The learned tokens before the patches, each `[n, D]`, in order."""
        init = nn.initializers.normal(1e-6)
        counts = {
            "cls_token": int(self.class_token),
            "dist_token": int(self.distilled),
            "reg_tokens": self.registers,
        }
        tokens = [
            jnp.asarray(self.param(name, init, (count, self.width)))
            for name, count in counts.items()
            if count
        ]
        for i in range(len(positions)):
            tokens[i] = tokens[i] + positions[i : i + 1]
        return tokens

    def _encode(self, x: Array, train: bool) -> Array:
        block = layers.layer_stack(
            EncoderBlock, scan=self.scan, remat=self.remat, depth=self.depth, in_axes=(0,)
        )
        fields = {
            "heads": self.heads,
            "mlp_dim": self.mlp_dim,
            "norm_eps": self.norm_eps,
            "dropout": self.dropout,
            "drop_path": self.drop_path > 0,
            "dtype": self.dtype,
            "activation": self.activation,
            "layer_scale": self.layer_scale,
        }
        rates = np.linspace(0.0, self.drop_path, self.depth, dtype=np.float32)
        if self.scan:
            return block(**fields, name="blocks")(x, jnp.asarray(rates), train)[0]
        for i in range(self.depth):
            x, _ = block(**fields, name=f"block_{i}")(x, jnp.asarray(rates[i]), train)
        return x


STEMS = {"patch": PatchEmbed, "conv": ConvStem}
POOLS = ("cls", "gap", "cls_gap", "map")


def _patch_init(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Initializes the projection of a flattened patch as `layers.xavier`."""
    return layers.xavier(key, (int(np.prod(shape[:-1])), shape[-1])).reshape(shape)


def _init_positions(
    _: PRNGKeyArray, grid: tuple[int, int], extra: int, width: int
) -> Float[Array, "N {width}"]:
    """Sines and cosines of row and column (Beyer et al. 2022, arXiv:2205.01580, section 2).

    As large as the patches they are added to; `extra` rows of zeros for the tokens before. They are
    learned from there: with small random init attention has no positional signal early on.
    """
    frequencies = 10000.0 ** -np.linspace(0, 1, max(width // 4, 1))
    rows, columns = np.meshgrid(*map(np.arange, grid), indexing="ij")
    angles = [indices.reshape(-1, 1) * frequencies for indices in (rows, columns)]
    table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    padding = ((extra, 0), (0, width - table.shape[1]))
    return jnp.asarray(np.pad(table, padding), jnp.float32)


def interpolate_positions(
    grid: Float[AnyArray, "h w D"], size: tuple[Any, Any], antialias: bool = False
) -> Float[AnyArray, "H W D"]:
    """Bicubic resize of position embeddings to `[*size, D]`, of integers or symbolic sizes.

    Equal to `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`, which ViT and
    DINO code uses: cubic convolution with a = -0.75, no smoothing, borders repeated. With
    `antialias`, equal to the same with `antialias=True`.
    """
    if grid.shape[:2] == tuple(size):
        return grid
    matrix = _smooth_bicubic if antialias else _bicubic
    rows = jnp.asarray(matrix(grid.shape[0], size[0]))
    columns = jnp.asarray(matrix(grid.shape[1], size[1]))
    return jnp.einsum("Hh,hwd,Ww->HWd", rows, grid, columns, precision="highest")


def _numpy_for(size: Any) -> Any:
    """NumPy, in float64; of a symbolic size (`jax.export`) JAX's, which computes in the program."""
    return np if isinstance(size, int) else jnp


def _bicubic(old: int, new: Any) -> Float[AnyArray, "new {old}"]:
    """The matrix that resizes one dimension."""
    xp = _numpy_for(new)
    centers = (xp.arange(new)[:, None] + 0.5) * (old / new) - 0.5
    first = xp.floor(centers)
    matrix = xp.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        weight = _cubic(xp.abs(centers - (first + offset)), -0.75)
        matrix += weight * (xp.clip(first + offset, 0, old - 1) == np.arange(old))
    return matrix.astype(np.float32)


def _smooth_bicubic(old: int, new: Any) -> Float[AnyArray, "new {old}"]:
    """The same with a = -0.5, and a kernel that grows with the step where the image shrinks."""
    xp = _numpy_for(new)
    centers = (xp.arange(new)[:, None] + 0.5) * (old / new)
    distance = xp.abs(np.arange(old) + 0.5 - centers) / xp.maximum(old / new, 1.0)
    weights = _cubic(distance, -0.5)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _cubic(distance: AnyArray, a: float) -> AnyArray:
    """The kernel of cubic convolution (Keys 1981)."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return near * (distance <= 1) + far * ((distance > 1) & (distance < 2))


for _size, _fields in SIZES.items():
    for _patch in PATCHES[_size]:
        register_model(
            f"vit_{_size}_patch{_patch}",
            Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop=0.9),
            patch_size=_patch,
            **_fields,
        )(ViT)

# DeiT, distilled (Touvron et al. 2021, arXiv:2012.12877, table 1).
for _size in ("tiny", "small", "base"):
    register_model(
        f"deit_{_size}_distilled_patch16",
        Preprocessing(interpolation="bicubic", crop=0.9),
        patch_size=16,
        distilled=True,
        **SIZES[_size],
    )(ViT)

# DINOv2 (Oquab et al. 2024, arXiv:2304.07193, table 17), and with registers: timm's names.
_DINOV2: dict[str, Any] = {
    **{size: SIZES[size] for size in ("small", "base", "large")},
    "giant": {"width": 1536, "depth": 40, "heads": 24, "mlp_dim": 4096, "activation": "swiglu"},
}
for _size, _fields in _DINOV2.items():
    for _infix, _registers in (("", {}), ("_reg4", {"registers": 4, "no_embed_class": True})):
        register_model(
            f"vit_{_size}_patch14{_infix}_dinov2",
            Preprocessing(518, interpolation="bicubic", crop=1.0),
            patch_size=14,
            image_size=518,
            layer_scale=1e-5,
            **_registers,
            **_fields,
        )(ViT)

# Image towers of CLIP (Radford et al. 2021, arXiv:2103.00020, table 20; huge to gigantic: Cherti et
# al. 2023, arXiv:2212.07143) and SigLIP (Zhai et al. 2023, arXiv:2303.15343; giantopt: Tschannen
# et al. 2025, arXiv:2502.14786): timm's names and activations. OpenAI's weights want quick_gelu.
IMAGE_TOWERS: dict[str, dict[str, int]] = {
    **SIZES,
    "gigantic": {"width": 1664, "depth": 48, "heads": 16, "mlp_dim": 8192},
    "giantopt": {"width": 1536, "depth": 40, "heads": 16, "mlp_dim": 6144},
}
_CLIP_IMAGES = Preprocessing(
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
    crop=1.0,
)
_SIGLIP_IMAGES = Preprocessing(
    mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop=1.0, squash=True
)
_CLIP_PATCHES = {"base": (16, 32), **dict.fromkeys(("large", "huge", "giant", "gigantic"), (14,))}
for _size, _patches in _CLIP_PATCHES.items():
    for _patch in _patches:
        for _infix, _activation in (("", "gelu"), ("_quickgelu", "quick_gelu")):
            register_model(
                f"vit_{_size}_patch{_patch}_clip{_infix}",
                _CLIP_IMAGES,
                patch_size=_patch,
                pre_norm=True,
                patch_bias=False,
                activation=_activation,
                norm_eps=1e-5,
                **IMAGE_TOWERS[_size],
            )(ViT)

_SIGLIP_PATCHES = {
    "base": {16: "gelu", 32: "gelu"},
    "large": {16: "gelu"},
    "so400m": {14: "gelu", 16: "gelu_tanh"},
    "giantopt": {16: "gelu_tanh"},
}
for _size, _activations in _SIGLIP_PATCHES.items():
    for _patch, _activation in _activations.items():
        register_model(
            f"vit_{_size}_patch{_patch}_siglip",
            _SIGLIP_IMAGES,
            patch_size=_patch,
            class_token=False,
            pool="map",
            activation=_activation,
            **IMAGE_TOWERS[_size],
        )(ViT)
