"""A transformer decoder of the GPT-2 form with cross-attention to an image, and the captioner.

Pre-norm, learned positions, tanh-GELU, tied embeddings: with the same weights it computes what
`transformers.GPT2LMHeadModel(add_cross_attention=True)` computes.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from jaxtag.array_types import AnyArray, Images
from jaxtag.distributed import mesh
from jaxtag.kernels import attention, layers


class DecoderBlock(nn.Module):
    """One decoder layer: self-attention, cross-attention, feed-forward."""

    width: int
    heads: int
    mlp_dim: int
    depth: int
    norm_eps: float
    dropout: float
    attention_dropout: float
    dtype: Dtype

    def setup(self) -> None:
        norm = partial(layers.LayerNorm, self.norm_eps, self.dtype)
        # Branches into the residual stream start smaller, as in GPT-2, so that its variance does
        # not grow with depth.
        out = nn.initializers.variance_scaling(1.0 / (3 * self.depth), "fan_avg", "uniform")
        linear = partial(layers.Linear, dtype=self.dtype)
        self.norm1 = norm()
        self.qkv = linear((3, self.width))
        self.out = linear((self.width,), out)
        self.norm_cross = norm()
        self.cross_query = linear((self.width,))
        self.cross_key_value = linear((2, self.width))
        self.cross_out = linear((self.width,), out)
        self.norm2 = norm()
        self.mlp = layers.MLP(self.mlp_dim, jax.nn.gelu, out, self.dtype)
        self.residual_dropout = layers.Dropout(self.dropout)
        self.weights_dropout = layers.Dropout(self.attention_dropout)

    def __call__(
        self, x: Float[Array, "B K T D"], memory: Float[Array, "B N D"], train: bool
    ) -> tuple[Float[Array, "B K T D"], None]:
        """K captions of an image share its keys and values."""
        x = mesh.constrain_batch(x)
        batch, captions, length, width = x.shape
        dropout = partial(self.residual_dropout, train=train)
        weights_dropout = partial(self.weights_dropout, train=train)

        qkv = self.qkv(self.norm1(x)).reshape(batch * captions, length, 3, width)
        causal = jnp.tril(jnp.ones((length, length), bool))
        query, key, value = attention.split_parts(qkv, self.heads)
        attended = attention.attention(query, key, value, causal, weights_dropout)
        x = x + dropout(self.out(attention.merge_heads(attended).reshape(x.shape)))

        query = self.cross_query(self.norm_cross(x)).reshape(batch, captions * length, width)
        query = attention.split_heads(query, self.heads)
        key, value = attention.split_parts(self.cross_key_value(memory), self.heads)
        attended = attention.attention(query, key, value, None, weights_dropout)
        x = x + dropout(self.cross_out(attention.merge_heads(attended).reshape(x.shape)))
        return x + dropout(self.mlp(self.norm2(x))), None

    def project_memory(
        self, memory: Float[Array, "B N D"]
    ) -> tuple[Float[Array, "B H N d"], Float[Array, "B H N d"]]:
        """Keys and values of the image for `step`."""
        keys_values = attention.split_heads(self.cross_key_value(memory), self.heads)
        keys_values = keys_values.transpose(2, 0, 3, 1, 4)
        return keys_values[0], keys_values[1]

    def step(
        self,
        x: Float[Array, "B W D"],
        cache: tuple[Float[Array, "B H TW d"], Float[Array, "B H TW d"]],
        memory: tuple[Float[Array, "B H N d"], Float[Array, "B H N d"]],
        position: Int[AnyArray, ""] | int,
        mask: Bool[Array, "#B 1 #W TW"],
    ) -> tuple[Float[Array, "B W D"], tuple[Float[Array, "B H TW d"], Float[Array, "B H TW d"]]]:
        """One token for each of W hypotheses of an image, inference only.

        Args:
            cache: keys and values of all positions and hypotheses, position-major, into which the
                new ones are written at `position`.
            memory: from `project_memory`.

        Returns:
            x and the new cache.
        """
        hypotheses = x.shape[1]
        qkv = attention.split_heads(self.qkv(self.norm1(x)), self.heads).transpose(2, 0, 3, 1, 4)
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new, position * hypotheses, axis=2)
            for old, new in zip(cache, (qkv[1], qkv[2]), strict=True)
        )
        attended = attention.head_major_attention(qkv[0], keys, values, mask)
        x = x + self.out(attention.merge_heads(attended.transpose(0, 2, 1, 3)))

        query = attention.split_heads(self.cross_query(self.norm_cross(x)), self.heads)
        attended = attention.head_major_attention(query.transpose(0, 2, 1, 3), *memory)
        x = x + self.cross_out(attention.merge_heads(attended.transpose(0, 2, 1, 3)))
        return x + self.mlp(self.norm2(x)), (keys, values)


class Decoder(nn.Module):
    """Caption tokens and an image's features to logits of the next token.

    Attributes:
        max_length: number of positions.
        dropout: of embeddings and of each branch.
        attention_dropout: of attention weights.
        norm_eps: as `dtype`, `scan` and `remat`, see `ViT`.
    """

    vocab_size: int
    max_length: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    norm_eps: float = 1e-5
    dtype: Dtype = jnp.float32
    scan: bool = False
    remat: str = "none"

    def setup(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        embed_init = nn.initializers.normal(0.02)
        self.token_embed = self.param("token_embed", embed_init, (self.vocab_size, self.width))
        self.pos_embed = self.param("pos_embed", embed_init, (self.max_length, self.width))
        self.embed_dropout = layers.Dropout(self.dropout)
        block = layers.layer_stack(
            DecoderBlock,
            scan=self.scan,
            remat=self.remat,
            depth=self.depth,
            in_axes=(nn.broadcast,),
        )
        if self.scan:
            self.blocks = block(**self.block_fields())
        else:
            self.block = [block(**self.block_fields()) for _ in range(self.depth)]
        self.norm = layers.LayerNorm(self.norm_eps, self.dtype)

    def block_fields(self) -> dict[str, Any]:
        """The fields of each `DecoderBlock`."""
        return {
            "width": self.width,
            "heads": self.heads,
            "mlp_dim": self.mlp_dim,
            "depth": self.depth,
            "norm_eps": self.norm_eps,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "dtype": self.dtype,
        }

    def layer_params(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        """The decoder's `params` as one tree a layer, however they are stored."""
        if self.scan:
            return [jax.tree.map(lambda p, i=i: p[i], params["blocks"]) for i in range(self.depth)]
        return [params[f"block_{i}"] for i in range(self.depth)]

    def __call__(
        self, tokens: Int[AnyArray, "B K T"], memory: Float[Array, "B N D"], train: bool = False
    ) -> Float[Array, "B K T {self.vocab_size}"]:
        """Logits of the token after each, float32.

        Position t sees tokens 0 to t. Padding at the end needs no mask: nothing before it sees it.
        """
        length = tokens.shape[-1]
        if length > self.max_length:
            raise ValueError(
                f"{length} tokens are more than the decoder's max_length ({self.max_length})"
            )
        x = self.embed_dropout(self.embed(tokens, jnp.arange(length)), train)
        if self.scan:
            x, _ = self.blocks(x, memory, train)
        else:
            for block in self.block:
                x, _ = block(x, memory, train)
        return self.logits(x)

    def embed(
        self, tokens: Int[AnyArray, "*B T"], positions: Int[AnyArray, " T"]
    ) -> Float[Array, "*B T D"]:
        """Embeddings of tokens at positions."""
        tokens_embedded = jnp.asarray(self.token_embed)[tokens]
        positions_embedded = jnp.asarray(self.pos_embed)[positions]
        return (tokens_embedded + positions_embedded).astype(self.dtype)

    def logits(self, x: Float[Array, "*B D"]) -> Float[Array, "*B {self.vocab_size}"]:
        """The last norm and the tied embedding, float32."""
        x = self.norm(x)
        return jnp.einsum(
            "...d,vd->...v",
            x,
            self.token_embed.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )


class Captioner(nn.Module):
    """An image encoder and a text decoder as one captioning model.

    Any backbone with `features`, and a decoder that attends to them. Where their widths differ, a
    learned projection is between them (`memory_proj`), as `enc_to_dec_proj` in
    `transformers.VisionEncoderDecoderModel`.
    """

    encoder: nn.Module
    decoder: Decoder

    @nn.compact
    def __call__(
        self, images: Images, tokens: Int[AnyArray, "B K T"], train: bool = False
    ) -> dict[str, Array]:
        """K captions of each image, which share one encoder pass.

        Returns:
            `logits` float32 `[B, K, T, V]` (of the token after each) and `features` `[B, N, D]`,
            which the decoder attends to.
        """
        features = self.encode(images, train)
        return {"logits": self.decoder(tokens, features, train), "features": features}

    @nn.compact
    def encode(
        self, images: Images, train: bool = False
    ) -> Float[Array, "B N {self.decoder.width}"]:
        """The features that the decoder attends to."""
        features = self.encoder(images, train)["features"]
        features = features.reshape(features.shape[0], -1, features.shape[-1])
        if features.shape[-1] == self.decoder.width:
            return features
        project = layers.Linear((self.decoder.width,), dtype=self.decoder.dtype, name="memory_proj")
        return project(features)
