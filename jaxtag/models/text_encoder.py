"""A transformer over the tokens of a text, in the forms of CLIP and SigLIP.

CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.4): causal, pooled at the end-of-text token.
SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786):
bidirectional, tanh-GELU, pooled at the last position, of texts padded to `max_length`. With the
same weights it computes what `transformers.CLIPTextModel` and `SiglipTextModel` compute.
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float, Int

from jaxtag.array_types import AnyArray
from jaxtag.kernels import layers
from jaxtag.models.encoder_block import EncoderBlock


class TextEncoder(nn.Module):
    """Token ids `[B, T]` to named outputs: `features` [B, T, D] and `pooled` [B, D].

    Negative ids (`data.tokenizer.PAD`) are padding and embedded as id 0. A causal encoder pools
    before it; without `causal` it is attended to, so pad to one length, as SigLIP was trained.

    Attributes:
        max_length: number of positions; shorter texts take the first ones.
        causal: position t attends to positions 0 to t only.
        pool: "eos" (the first position that holds `eos_id`; the last position where none does),
            "last" (the last position), or "mean" (over all positions but padding).
        eos_id: of the end-of-text token; `pool="eos"` needs it.
        activation: of the feed-forward: "quick_gelu" (OpenAI's CLIP), "gelu", "gelu_tanh" (SigLIP).
        dtype: of the computation; parameters are float32. As `scan` and `remat`, see `ViT`.
    """

    vocab_size: int
    max_length: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    causal: bool = True
    pool: str = "eos"
    eos_id: int | None = None
    activation: str = "gelu"
    dropout: float = 0.0
    norm_eps: float = 1e-5
    dtype: Dtype = jnp.float32
    scan: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(self, tokens: Int[AnyArray, "B T"], train: bool = False) -> dict[str, Array]:
        self._check(tokens)
        x = layers.Dropout(self.dropout)(self._embed(tokens), train)
        x = layers.LayerNorm(self.norm_eps, self.dtype, name="norm")(self._encode(x, train))
        return {"features": x, "pooled": self._pool(x, tokens)}

    def _check(self, tokens: AnyArray) -> None:
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"{tokens.shape[1]} tokens are more than the encoder's max_length "
                f"({self.max_length})"
            )
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        poolings = ("eos", "last", "mean")
        if self.pool not in poolings or (self.pool == "eos" and self.eos_id is None):
            raise ValueError(
                f'pool must be "eos" (with an eos_id), "last" or "mean"; got pool={self.pool!r}, '
                f"eos_id={self.eos_id}"
            )

    def _embed(self, tokens: AnyArray) -> Float[Array, "B T D"]:
        token_init, position_init = nn.initializers.normal(0.02), nn.initializers.normal(0.01)
        table = self.param("token_embed", token_init, (self.vocab_size, self.width))
        positions = self.param("pos_embed", position_init, (self.max_length, self.width))
        embedded = jnp.asarray(table)[jnp.maximum(tokens, 0)].astype(self.dtype)
        return layers.add_broadcast(embedded, positions[: tokens.shape[1]])

    def _encode(self, x: Array, train: bool) -> Array:
        block = layers.layer_stack(
            EncoderBlock,
            scan=self.scan,
            remat=self.remat,
            depth=self.depth,
            in_axes=(nn.broadcast,),
        )
        fields = {
            "heads": self.heads,
            "mlp_dim": self.mlp_dim,
            "norm_eps": self.norm_eps,
            "dropout": self.dropout,
            "drop_path": False,
            "dtype": self.dtype,
            "activation": self.activation,
            "causal": self.causal,
        }
        rate = jnp.float32(0)
        if self.scan:
            return block(**fields, name="blocks")(x, rate, train)[0]
        for i in range(self.depth):
            x, _ = block(**fields, name=f"block_{i}")(x, rate, train)
        return x

    def _pool(self, x: Float[Array, "B T D"], tokens: AnyArray) -> Float[Array, "B D"]:
        if self.pool == "last":
            return x[:, -1]
        if self.pool == "mean":
            weights = (jnp.asarray(tokens) >= 0).astype(jnp.float32)[..., None]
            total = (x.astype(jnp.float32) * weights).sum(1)
            return total / jnp.maximum(weights.sum(1), 1.0)
        is_end = jnp.equal(tokens, jnp.asarray(self.eos_id))
        position = jnp.where(is_end.any(1), is_end.argmax(1), tokens.shape[1] - 1)
        return jnp.take_along_axis(x, position[:, None, None], axis=1)[:, 0]
