"""A backbone whose pictures become vectors of length 1, near each other for the same class."""

import flax.linen as nn
import jax
import jax.numpy as jnp

# Of length about 1, so that a learning rate turns them as far whatever their size.
_proxies = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=0)


class Embedder(nn.Module):
    """Images `[B, H, W, C]`, normalised, to named outputs: `embedding` float32 `[B, size]` and, if
    there are any, `proxies` float32 `[proxies, size]`; all vectors have length 1.

    Fields:
      backbone: any, with `pooled`, of which the embedding is a linear function.
      size: of an embedding.
      proxies: how many learned vectors there are, one a class; 0 for none.
    """

    backbone: nn.Module
    size: int
    proxies: int = 0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        pooled = self.backbone(images, train)["pooled"].astype(jnp.float32)
        outputs = {"embedding": _of_length_one(nn.Dense(self.size, name="projection")(pooled))}
        if self.proxies:
            proxies = self.param("proxies", _proxies, (self.proxies, self.size))
            outputs["proxies"] = _of_length_one(proxies)
        return outputs


def _of_length_one(vectors: jax.Array) -> jax.Array:
    squares = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
