"""Transformer decoders of captions over an image's features, and the captioner.

Three forms (`FORMS`) share one interface, in training and with a key-value cache:

- "pre_norm": GPT-2 with cross-attention (`transformers.GPT2LMHeadModel(add_cross_attention=True)`):
  norms before the branches, tanh-GELU, tied embeddings;
- "post_norm": BERT with cross-attention, as BLIP has it (Li et al. 2022, arXiv:2201.12086;
  `transformers.BlipTextLMHeadModel`): norms after the branches and on the embeddings, a layer
  before the tied embeddings, which have a bias;
- "prefix": BERT that reads the image's features before the tokens, as GIT does (Wang et al. 2022,
  arXiv:2205.14100; `transformers.GitForCausalLM`): no cross-attention; output weights of their own.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Bool, Float, Int

from jaxtag.array_types import AnyArray, Inputs
from jaxtag.distributed import mesh
from jaxtag.kernels import attention, layers

FORMS = ("pre_norm", "post_norm", "prefix")
KeysValues = tuple[Float[Array, "B H N d"], Float[Array, "B H N d"]]  # of an image
Cache = tuple[Float[Array, "B H S d"], Float[Array, "B H S d"]]


class DecoderBlock(nn.Module):
    """One decoder layer: self-attention, cross-attention (but for "prefix"), feed-forward."""

    width: int
    heads: int
    mlp_dim: int
    depth: int
    norm_eps: float
    dropout: float
    attention_dropout: float
    dtype: Dtype
    form: str = "pre_norm"

    def setup(self) -> None:
        norm = partial(layers.LayerNorm, self.norm_eps, self.dtype)
        out, activation = layers.xavier, layers.gelu_exact
        if self.form == "pre_norm":
            # Branches into the residual stream start smaller, as in GPT-2, so that its variance
            # does not grow with depth.
            out = nn.initializers.variance_scaling(1.0 / (3 * self.depth), "fan_avg", "uniform")
            activation = jax.nn.gelu
        linear = partial(layers.Linear, dtype=self.dtype)
        self.norm1 = norm()
        self.qkv = linear((3, self.width))
        self.out = linear((self.width,), out)
        if self.form != "prefix":
            self.norm_cross = norm()
            self.cross_query = linear((self.width,))
            self.cross_key_value = linear((2, self.width))
            self.cross_out = linear((self.width,), out)
        self.norm2 = norm()
        self.mlp = layers.MLP(self.mlp_dim, activation, out, self.dtype)
        self.residual_dropout = layers.Dropout(self.dropout)
        self.weights_dropout = layers.Dropout(self.attention_dropout)

    def __call__(
        self, x: Float[Array, "B K T D"], memory: Float[Array, "B N C"], train: bool
    ) -> tuple[Float[Array, "B K T D"], None]:
        """K captions of an image share its keys and values.

        With "prefix", the first N of the T positions are the image's.
        """
        x = mesh.constrain_batch(x)
        batch, captions, length, width = x.shape
        weights_dropout = partial(self.weights_dropout, train=train)

        def attend_to_itself(x: Array) -> Array:
            qkv = self.qkv(x).reshape(batch * captions, length, 3, width)
            query, key, value = attention.split_parts(qkv, self.heads)
            mask = self._mask(length, memory.shape[1])
            attended = attention.attention(query, key, value, mask, weights_dropout)
            return self.out(attention.merge_heads(attended).reshape(x.shape))

        def attend_to_image(x: Array) -> Array:
            query = self.cross_query(x).reshape(batch, captions * length, width)
            query = attention.split_heads(query, self.heads)
            key, value = attention.split_parts(self.cross_key_value(memory), self.heads)
            attended = attention.attention(query, key, value, None, weights_dropout)
            return self.cross_out(attention.merge_heads(attended).reshape(x.shape))

        x = self._residual(self.norm1, attend_to_itself, x, train)
        if self.form != "prefix":
            x = self._residual(self.norm_cross, attend_to_image, x, train)
        return self._residual(self.norm2, self.mlp, x, train), None

    def _residual(self, norm: Any, branch: Any, x: Array, train: bool = False) -> Array:
        """A branch and its norm around the residual stream."""
        if self.form == "pre_norm":
            return x + self.residual_dropout(branch(norm(x)), train=train)
        return norm(x + self.residual_dropout(branch(x), train=train))

    def _mask(self, length: int, prefix: int) -> Bool[Array, "T T"]:
        causal = jnp.tril(jnp.ones((length, length), bool))
        return causal.at[:prefix, :prefix].set(True) if self.form == "prefix" else causal

    def read_memory(
        self, memory: Float[Array, "B N C"]
    ) -> tuple[Float[Array, "B N C"], KeysValues]:
        """Keys and values of the image for `step`, and the memory that the next layer reads."""
        if self.form != "prefix":
            keys_values = attention.split_heads(self.cross_key_value(memory), self.heads)
            keys_values = keys_values.transpose(2, 0, 3, 1, 4)
            return memory, (keys_values[0], keys_values[1])
        parts: list[Array] = []

        def attend_to_itself(x: Array) -> Array:
            qkv = attention.split_heads(self.qkv(x), self.heads).transpose(2, 0, 3, 1, 4)
            parts.extend(qkv[1:])
            attended = attention.head_major_attention(qkv[0], qkv[1], qkv[2])
            return self.out(attention.merge_heads(attended.transpose(0, 2, 1, 3)))

        memory = self._residual(self.norm1, attend_to_itself, memory)
        memory = self._residual(self.norm2, self.mlp, memory)
        return memory, (parts[0], parts[1])

    def step(
        self,
        x: Float[Array, "B W D"],
        cache: Cache,
        memory: KeysValues | None,
        start: Int[AnyArray, ""] | int,
        mask: Bool[Array, "#B 1 #W S"],
    ) -> tuple[Float[Array, "B W D"], Cache]:
        """One token for each of W hypotheses of an image, inference only.

        Args:
            cache: keys and values of all positions and hypotheses, position-major, into which the
                new ones are written from `start` on; with "prefix", those of the image come first.
            memory: from `read_memory`; None with "prefix".
            mask: which of the S entries of the cache a hypothesis sees.

        Returns:
            x and the new cache.
        """
        caches: list[Array] = []

        def attend_to_itself(x: Array) -> Array:
            qkv = attention.split_heads(self.qkv(x), self.heads).transpose(2, 0, 3, 1, 4)
            caches.extend(
                jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=2)
                for old, new in zip(cache, (qkv[1], qkv[2]), strict=True)
            )
            attended = attention.head_major_attention(qkv[0], caches[0], caches[1], mask)
            return self.out(attention.merge_heads(attended.transpose(0, 2, 1, 3)))

        def attend_to_image(x: Array) -> Array:
            assert memory is not None
            query = attention.split_heads(self.cross_query(x), self.heads)
            attended = attention.head_major_attention(query.transpose(0, 2, 1, 3), *memory)
            return self.cross_out(attention.merge_heads(attended.transpose(0, 2, 1, 3)))

        x = self._residual(self.norm1, attend_to_itself, x)
        if self.form != "prefix":
            x = self._residual(self.norm_cross, attend_to_image, x)
        return self._residual(self.norm2, self.mlp, x), (caches[0], caches[1])


class Decoder(nn.Module):
    """Caption tokens and an image's features to logits of the next token.

    Attributes:
        max_length: number of positions.
        dropout: of embeddings and of each branch.
        attention_dropout: of attention weights.
        norm_eps: as `dtype`, `scan` and `remat`, see `ViT`.
        form: one of `FORMS`.
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
    form: str = "pre_norm"

    def setup(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}; got {self.form!r}")
        embed_init = nn.initializers.normal(0.02)
        norm = partial(layers.LayerNorm, self.norm_eps, self.dtype)
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
        if self.form == "pre_norm":
            self.norm = norm()
            return
        self.embed_norm = norm()
        self.output_bias = self.param("output_bias", nn.initializers.zeros, (self.vocab_size,))
        if self.form == "post_norm":
            self.head_transform = layers.Linear((self.width,), dtype=self.dtype)
            self.norm = norm()
        else:
            shape = (self.vocab_size, self.width)
            self.output_embed = self.param("output_embed", embed_init, shape)

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
            "form": self.form,
        }

    def layer_params(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        """The decoder's `params` as one tree a layer, however they are stored."""
        if self.scan:
            return [jax.tree.map(lambda p, i=i: p[i], params["blocks"]) for i in range(self.depth)]
        return [params[f"block_{i}"] for i in range(self.depth)]

    def __call__(
        self, tokens: Int[AnyArray, "B K T"], memory: Float[Array, "B N C"], train: bool = False
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
        if self.form == "prefix":
            shape = (*tokens.shape[:2], *memory.shape[1:])
            x = jnp.concatenate([jnp.broadcast_to(memory[:, None], shape), x], axis=2)
        if self.scan:
            x, _ = self.blocks(x, memory, train)
        else:
            for block in self.block:
                x, _ = block(x, memory, train)
        return self.logits(x[:, :, -length:] if self.form == "prefix" else x)

    def embed(
        self, tokens: Int[AnyArray, "*B T"], positions: Int[AnyArray, " T"]
    ) -> Float[Array, "*B T D"]:
        """Embeddings of tokens at positions."""
        tokens_embedded = jnp.asarray(self.token_embed)[tokens]
        positions_embedded = jnp.asarray(self.pos_embed)[positions]
        embedded = (tokens_embedded + positions_embedded).astype(self.dtype)
        return embedded if self.form == "pre_norm" else self.embed_norm(embedded)

    def logits(self, x: Float[Array, "*B D"]) -> Float[Array, "*B {self.vocab_size}"]:
        """What the form has after its last layer, and the output embeddings, float32."""
        if self.form == "post_norm":
            x = layers.gelu_exact(self.head_transform(x))
        if self.form != "prefix":
            x = self.norm(x)
        embeddings = self.output_embed if self.form == "prefix" else self.token_embed
        logits = jnp.einsum(
            "...d,vd->...v",
            x,
            embeddings.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        return logits if self.form == "pre_norm" else logits + self.output_bias


class Captioner(nn.Module):
    """An image encoder and a text decoder as one captioning model.

    Any backbone with `features`, and a decoder that reads them. With "pre_norm", a learned
    projection (`memory_proj`) is between them where their widths differ, as `enc_to_dec_proj` in
    `transformers.VisionEncoderDecoderModel`; with "prefix" it always is, with a norm (GIT).
    """

    encoder: nn.Module
    decoder: Decoder

    @nn.compact
    def __call__(
        self, images: Inputs, tokens: Int[AnyArray, "B K T"], train: bool = False
    ) -> dict[str, Array]:
        """K captions of each image, which share one encoder pass.

        Returns:
            `logits` float32 `[B, K, T, V]` (of the token after each) and `features` `[B, N, D]`,
            which the decoder reads.
        """
        features = self.encode(images, train)
        return {"logits": self.decoder(tokens, features, train), "features": features}

    @nn.compact
    def encode(self, images: Inputs, train: bool = False) -> Float[Array, "B N M"]:
        """The features that the decoder reads."""
        features = self.encoder(images, train)["features"]
        features = features.reshape(features.shape[0], -1, features.shape[-1])
        width, dtype, form = self.decoder.width, self.decoder.dtype, self.decoder.form
        if form == "post_norm" or (form == "pre_norm" and features.shape[-1] == width):
            return features
        projected = layers.Linear((width,), dtype=dtype, name="memory_proj")(features)
        if form == "pre_norm":
            return projected
        epsilon = getattr(self.encoder, "norm_eps", 1e-5)
        return layers.LayerNorm(epsilon, dtype, name="memory_norm")(projected)
