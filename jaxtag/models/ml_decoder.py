"""ML-Decoder (Ridnik et al. 2021, arXiv:2111.12933): tags by queries that attend to a picture.

With the same weights it computes what the authors' `MLDecoder` computes; its queries are learned.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxtag.kernels import attention, layers


class MLDecoder(nn.Module):
    """Images `[B, H, W, C]`, normalised, to `logits` float32 `[B, tags]` and what the backbone
    gives.

    The backbone's features are projected; each query attends to them and answers for a group of
    tags, with weights of the group's own (section 3.3, group decoding).

    Fields:
      backbone: any, with `features`.
      tags: how many.
      groups: how many queries; with no more tags than that, one a tag.
      width, heads, dropout: of the decoder layer; its feed-forward part is four times as wide.
    """

    backbone: nn.Module
    tags: int
    groups: int
    width: int
    heads: int
    dropout: float = 0.1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        outputs = self.backbone(images, train)
        features = outputs["features"]
        features = features.reshape(features.shape[0], -1, features.shape[-1])
        linear = partial(layers.Linear, dtype=self.dtype)
        memory = nn.relu(linear((self.width,), name="memory")(features))
        groups = min(self.groups, self.tags)
        queries = self.param("queries", nn.initializers.normal(1.0), (groups, self.width))
        queries = jnp.broadcast_to(queries, (len(memory), *queries.shape)).astype(self.dtype)
        answers = self._decode(queries, memory, train)
        return {**outputs, "logits": self._group_linear(answers.astype(jnp.float32))}

    def _decode(self, queries: jax.Array, memory: jax.Array, train: bool) -> jax.Array:
        """A decoder layer without self-attention (section 3.2): `[B, G, D]`, `[B, N, D]`."""
        linear = partial(layers.Linear, dtype=self.dtype)
        norm = partial(layers.LayerNorm, 1e-5, self.dtype)
        dropped = partial(layers.Dropout(self.dropout), train=train)
        x = norm(name="norm1")(queries + dropped(queries))
        query = attention.split_heads(linear((self.width,), name="query")(x), self.heads)
        keys_values = linear((2, self.width), name="key_value")(memory)
        attended = attention.attention(
            query, *attention.split_parts(keys_values, self.heads), None, dropped
        )
        attended = linear((self.width,), name="out")(attention.merge_heads(attended))
        x = norm(name="norm2")(x + dropped(attended))
        hidden = nn.relu(linear((4 * self.width,), name="fc1")(x))
        y = linear((self.width,), name="fc2")(dropped(hidden))
        return norm(name="norm3")(x + dropped(y))

    def _group_linear(self, answers: jax.Array) -> jax.Array:
        """`[B, G, D]` to `[B, tags]`: tag t is number t % F of group t // F."""
        groups, width = answers.shape[1:]
        per_group = -(-self.tags // groups)
        kernel = self.param("head_kernel", layers.xavier, (groups, width, per_group))
        bias = self.param("head_bias", nn.initializers.zeros, (self.tags,))
        logits = jnp.einsum("bgd,gdf->bgf", answers, kernel)
        return logits.reshape(len(answers), -1)[:, : self.tags] + bias
