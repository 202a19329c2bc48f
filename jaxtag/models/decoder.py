"""A transformer decoder of the GPT-2 form with cross-attention to a picture.

Pre-norm, learned positions, tanh-GELU, tied embeddings: with the same weights it computes what
`transformers.GPT2LMHeadModel(add_cross_attention=True)` computes.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxtag.distributed import mesh as meshes
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

    def __call__(self, x: jax.Array, memory: jax.Array, train: bool) -> tuple[jax.Array, None]:
        """x `[B, K, T, D]`, memory `[B, N, D]`: K captions a picture share its keys and values."""
        x = meshes.constrain_batch(x)
        batch, captions, length, width = x.shape
        dropped = partial(self.residual_dropout, train=train)
        weights_dropped = partial(self.weights_dropout, train=train)

        qkv = self.qkv(self.norm1(x)).reshape(batch * captions, length, 3, width)
        causal = jnp.tril(jnp.ones((length, length), bool))
        attended = attention.attention(
            *attention.split_parts(qkv, self.heads), causal, weights_dropped
        )
        x = x + dropped(self.out(attention.merge_heads(attended).reshape(x.shape)))

        query = self.cross_query(self.norm_cross(x)).reshape(batch, captions * length, width)
        query = attention.split_heads(query, self.heads)
        keys, values = attention.split_parts(self.cross_key_value(memory), self.heads)
        attended = attention.attention(query, keys, values, None, weights_dropped)
        x = x + dropped(self.cross_out(attention.merge_heads(attended).reshape(x.shape)))
        return x + dropped(self.mlp(self.norm2(x))), None

    def project_memory(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Memory `[B, N, D]` -> keys and values `[B, H, N, d]` for `step`."""
        keys_values = attention.split_heads(self.cross_key_value(memory), self.heads)
        keys_values = keys_values.transpose(2, 0, 3, 1, 4)
        return keys_values[0], keys_values[1]

    def step(
        self,
        x: jax.Array,
        cache: tuple[jax.Array, jax.Array],
        memory: tuple[jax.Array, jax.Array],
        position: jax.Array,
        mask: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """One token for each of W hypotheses a picture, inference only.

        x `[B, W, D]`; cache: keys and values `[B, H, T * W, d]`, position-major, into which the
        new ones are written at `position`; memory: from `project_memory`; mask `[B, 1, W, T * W]`.
        Gives x `[B, W, D]` and the new cache.
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
    """Caption tokens and a picture's features to logits of the next token.

    Fields: vocab_size; max_length: positions there are; dropout: of embeddings and of each branch;
    attention_dropout: of attention weights; norm_eps, dtype, scan, remat: as of `ViT`.
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

    def __call__(self, tokens: jax.Array, memory: jax.Array, train: bool = False) -> jax.Array:
        """tokens int32 `[B, K, T]`, memory `[B, N, D]` -> logits float32 `[B, K, T, vocab_size]`.

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

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Tokens `[..., T]` at positions `[T]` -> `[..., T, D]`."""
        return (self.token_embed[tokens] + self.pos_embed[positions]).astype(self.dtype)

    def logits(self, x: jax.Array) -> jax.Array:
        """`[..., D] -> [..., vocab_size]`, float32: the last norm and the tied embedding."""
        x = self.norm(x)
        return jnp.einsum(
            "...d,vd->...v",
            x,
            self.token_embed.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
