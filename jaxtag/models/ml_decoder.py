"""ML-Decoder (Ridnik et al. 2021, arXiv:2111.12933): tags by queries that attend to an image.

With the same weights it computes what the authors' `MLDecoder` computes; its queries are learned.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxtag.array_types import Inputs
from jaxtag.kernels import attention, layers


class MLDecoder(nn.Module):
    """Normalized images to `logits` float32 `[B, tags]` and the backbone's outputs.

    The backbone's features are projected; each query attends to them and predicts a group of tags,
    with weights of the group's own (section 3.3, group decoding).

    Attributes:
        backbone: any, with `features`.
        tags: their number.
        groups: number of queries; with no more tags than that, one a tag.
        width: of the decoder layer; its feed-forward part is four times as wide.
        heads: of the attention.
    """

    backbone: nn.Module
    tags: int
    groups: int
    width: int
    heads: int
    dropout: float = 0.1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Inputs, train: bool = False) -> dict[str, Array]:
        outputs = self.backbone(images, train)
        features = outputs["features"]
        features = features.reshape(features.shape[0], -1, features.shape[-1])
        linear = partial(layers.Linear, dtype=self.dtype)
        memory = nn.relu(linear((self.width,), name="memory")(features))
        groups = min(self.groups, self.tags)
        queries = self.param("queries", nn.initializers.normal(1.0), (groups, self.width))
        queries = jnp.broadcast_to(queries, (memory.shape[0], *queries.shape)).astype(self.dtype)
        decoded = self._decode(queries, memory, train)
        return {**outputs, "logits": self._group_linear(decoded.astype(jnp.float32))}

    def _decode(
        self, queries: Float[Array, "B G D"], memory: Float[Array, "B N D"], train: bool
    ) -> Float[Array, "B G D"]:
        """A decoder layer without self-attention (section 3.2)."""
        linear = partial(layers.Linear, dtype=self.dtype)
        norm = partial(layers.LayerNorm, 1e-5, self.dtype)
        dropout = partial(layers.Dropout(self.dropout), train=train)
        x = norm(name="norm1")(queries + dropout(queries))
        query = attention.split_heads(linear((self.width,), name="query")(x), self.heads)
        keys_values = linear((2, self.width), name="key_value")(memory)
        key, value = attention.split_parts(keys_values, self.heads)
        attended = attention.attention(query, key, value, None, dropout)
        attended = linear((self.width,), name="out")(attention.merge_heads(attended))
        x = norm(name="norm2")(x + dropout(attended))
        hidden = nn.relu(linear((4 * self.width,), name="fc1")(x))
        y = linear((self.width,), name="fc2")(dropout(hidden))
        return norm(name="norm3")(x + dropout(y))

    def _group_linear(self, decoded: Float[Array, "B G D"]) -> Float[Array, "B {self.tags}"]:
        """Tag t is number t % F of group t // F."""
        groups, width = decoded.shape[1:]
        per_group = -(-self.tags // groups)
        kernel = self.param("head_kernel", layers.xavier, (groups, width, per_group))
        bias = self.param("head_bias", nn.initializers.zeros, (self.tags,))
        logits = jnp.einsum("bgd,gdf->bgf", decoded, kernel)
        return logits.reshape(decoded.shape[0], -1)[:, : self.tags] + bias
