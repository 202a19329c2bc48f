"""A backbone whose images become unit vectors, near each other for the same class."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtag.array_types import Inputs

# Of length about 1, so that a learning rate turns them as far whatever their size.
_proxy_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=0)


class Embedder(nn.Module):
    """Normalized images to `embedding` and, if there are any, `proxies`.

    `embedding` is float32 `[B, size]`, `proxies` float32 `[proxies, size]`; all vectors have
    length 1.

    Attributes:
        backbone: any, with `pooled`, of which the embedding is a linear function.
        size: of an embedding.
        proxies: number of learned vectors, one a class; 0 for none.
    """

    backbone: nn.Module
    size: int
    proxies: int = 0

    @nn.compact
    def __call__(self, images: Inputs, train: bool = False) -> dict[str, Array]:
        pooled = self.backbone(images, train)["pooled"].astype(jnp.float32)
        outputs = {"embedding": l2_normalize(nn.Dense(self.size, name="projection")(pooled))}
        if self.proxies:
            proxies = self.param("proxies", _proxy_init, (self.proxies, self.size))
            outputs["proxies"] = l2_normalize(proxies)
        return outputs


def l2_normalize(vectors: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Divides each row by its length."""
    squares = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
