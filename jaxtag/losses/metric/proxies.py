"""Losses against one learned vector a class, its proxy: linear in the batch and in the classes.

Embeddings are float [B, D] and proxies [C, D], both of length 1; labels int32 [B] or int8 [B, C] as
`alike` has them, `mask` [B] (0: takes no part). Each loss gives float32 scalars (sum, weight): the
loss is sum / weight.
"""

import jax
import jax.numpy as jnp

from jaxtag.losses.metric import pair_masks
from jaxtag.losses.metric.pairs import WeightedSum, log_one_plus

_INSIDE = 1 - 1e-6  # cosines up to here; the sine has no gradient at 1


def proxy_anchor(
    embeddings: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    proxies: jax.Array,
    *,
    margin: float = 0.1,
    scale: float = 32.0,
) -> WeightedSum:
    """Proxy-Anchor (Kim et al. 2020, arXiv:2003.13911, equation 4).

    The mean over proxies with a picture in the batch of log(1 + sum over the class's pictures of
    exp(-scale (s - margin))), and that over all proxies of log(1 + sum over the other pictures of
    exp(scale (s + margin))).
    """
    similarity = _cosines(embeddings, proxies)
    present = mask[:, None] > 0
    own, others = pair_masks.class_masks(labels, len(proxies))
    positive, negative = own & present, others & present
    pull = log_one_plus(-scale * (similarity - margin), positive, axis=0)
    push = log_one_plus(scale * (similarity + margin), negative, axis=0)
    with_pictures = jnp.maximum(positive.any(0).sum(), 1)
    return pull.sum() / with_pictures + push.mean(), present.any().astype(jnp.float32)


def arcface(
    embeddings: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    proxies: jax.Array,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
) -> WeightedSum:
    """Cross-entropy of scaled cosines, the own class's angle enlarged by `margin` radians.

    Labels are classes: a picture has one.

    (Deng et al. 2019, arXiv:1801.07698, equation 3.)
    """
    cosines = jnp.clip(_cosines(embeddings, proxies), -_INSIDE, _INSIDE)
    enlarged = cosines * jnp.cos(margin) - jnp.sqrt(1 - cosines**2) * jnp.sin(margin)
    own = labels[:, None] == jnp.arange(len(proxies))
    logits = scale * jnp.where(own, enlarged, cosines)
    losses = -jnp.where(own, jax.nn.log_softmax(logits), 0).sum(-1)
    present = mask > 0
    return (losses * present).sum(), present.sum().astype(jnp.float32)


def _cosines(embeddings: jax.Array, proxies: jax.Array) -> jax.Array:
    embeddings, proxies = embeddings.astype(jnp.float32), proxies.astype(jnp.float32)
    return jnp.matmul(embeddings, proxies.T, precision="highest")
