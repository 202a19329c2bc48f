"""Pools the tokens of an image by attention from one learned query."""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxtag.kernels import attention, layers


class AttentionPool(nn.Module):
    """The attention-pooling head of SigLIP (Zhai et al. 2022, arXiv:2106.04560, section 3.2).

    A learned query (`probe`) attends to all tokens; a residual feed-forward follows.
    """

    heads: int
    mlp_dim: int
    norm_eps: float
    activation: str
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        batch, _, width = x.shape
        probe = self.param("probe", layers.xavier, (1, width))
        query = jnp.broadcast_to(jnp.asarray(probe).astype(self.dtype), (batch, 1, width))
        # One layer for all three, as other libraries store them: it sees the probe as a token.
        qkv = layers.Linear((3, width), dtype=self.dtype, name="qkv")
        projected = qkv(jnp.concatenate([query, x.astype(self.dtype)], axis=1))
        query, key, value = attention.split_parts(projected, self.heads)
        attended = attention.attention(query[:, :1], key[:, 1:], value[:, 1:])
        pooled = layers.Linear((width,), dtype=self.dtype, name="out")(
            attention.merge_heads(attended)
        )
        mlp = layers.MLP(
            self.mlp_dim, layers.get_activation(self.activation), dtype=self.dtype, name="mlp"
        )
        norm = layers.LayerNorm(self.norm_eps, self.dtype, name="norm")
        return (pooled + mlp(norm(pooled)))[:, 0]
