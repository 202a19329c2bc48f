"""The pre-norm transformer layer that image and text encoders share."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype
from jaxtyping import Array, Float

from jaxtag.distributed import mesh
from jaxtag.kernels import attention, layers


class EncoderBlock(nn.Module):
    """One encoder layer; `rate` is its drop-path rate.

    Attributes:
        drop_path: whether `rate` may be other than 0.
        activation: of the feed-forward, one of `layers.ACTIVATIONS`, or "swiglu" (`layers.SwiGLU`).
        causal: position t attends to positions 0 to t only.
        layer_scale: each branch is multiplied by a learned vector, which starts as this (Touvron et
            al. 2021, arXiv:2103.17239, section 2.2); None for none.
    """

    heads: int
    mlp_dim: int
    norm_eps: float
    dropout: float
    drop_path: bool
    dtype: Dtype
    activation: str = "gelu"
    causal: bool = False
    layer_scale: float | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], rate: Float[Array, ""], train: bool
    ) -> tuple[Float[Array, "B N D"], None]:
        x = mesh.constrain_batch(x)
        norm = partial(layers.LayerNorm, self.norm_eps, self.dtype)
        length, width = x.shape[1:]
        qkv = layers.Linear((3, width), dtype=self.dtype, name="qkv")(norm(name="norm1")(x))
        query, key, value = attention.split_parts(qkv, self.heads)
        mask = jnp.tril(jnp.ones((length, length), bool)) if self.causal else None
        attended = attention.attention(query, key, value, mask)
        out = layers.Linear((width,), dtype=self.dtype, name="out")
        attended = out(attention.merge_heads(attended))
        x = x + self._branch("scale1", attended, rate, train)
        return x + self._branch("scale2", self._mlp(norm(name="norm2")(x)), rate, train), None

    def _mlp(self, x: Array) -> Array:
        if self.activation == "swiglu":
            return layers.SwiGLU(self.mlp_dim, self.dtype, name="mlp")(x)
        activation = layers.get_activation(self.activation)
        return layers.MLP(self.mlp_dim, activation, dtype=self.dtype, name="mlp")(x)

    def _branch(self, name: str, branch: Array, rate: Array, train: bool) -> Array:
        """A residual branch, scaled and regularized."""
        if self.layer_scale is not None:
            init = nn.initializers.constant(self.layer_scale)
            branch = branch * self.param(name, init, branch.shape[-1:]).astype(branch.dtype)
        branch = layers.Dropout(self.dropout)(branch, train)
        return layers.DropPath()(branch, rate, train) if self.drop_path else branch
