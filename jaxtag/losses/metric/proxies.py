"""Losses against one learned vector per class, its proxy: linear in batch and classes.

Embeddings are float [B, D] and proxies [C, D], both of unit length; labels are class indices
int32 [B] or tag states int8 [B, C] (see `pair_masks`), `mask` [B] is 0 for rows that take no part.
Each loss returns float32 scalars (sum, weight); the loss is sum / weight.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8

from jaxtag.losses.metric import pair_masks
from jaxtag.losses.metric.pairs import log_one_plus

_Loss = TypeVar("_Loss", bound=Callable)
_MAX_COSINE = 1 - 1e-6  # the sine has no gradient at 1


def against_proxies(*, single_class: bool = False) -> Callable[[_Loss], _Loss]:
    """A decorator for losses that take proxies [C, D] as their fourth argument.

    Args:
        single_class: the loss takes class indices [B] only, not sets of tags [B, C].
    """

    def decorate(loss: _Loss) -> _Loss:
        loss.needs_proxies = True  # type: ignore[attr-defined]  # functions have attributes
        loss.single_class = single_class  # type: ignore[attr-defined]
        return loss

    return decorate


@against_proxies()
def proxy_anchor(
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"] | Int8[Array, "B C"],
    mask: Float[Array, " B"],
    proxies: Float[Array, "C D"],
    *,
    margin: float = 0.1,
    scale: float = 32.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Proxy-Anchor (Kim et al. 2020, arXiv:2003.13911, equation 4).

    The mean over proxies with a positive image in the batch of log(1 + sum over positives of
    exp(-scale (s - margin))), plus the mean over all proxies of log(1 + sum over negatives of
    exp(scale (s + margin))).
    """
    similarity = _cosines(embeddings, proxies)
    present = mask[:, None] > 0
    own, others = pair_masks.class_masks(labels, len(proxies))
    positive, negative = own & present, others & present
    pull = log_one_plus(-scale * (similarity - margin), positive, axis=0)
    push = log_one_plus(scale * (similarity + margin), negative, axis=0)
    num_with_positives = jnp.maximum(positive.any(0).sum(), 1)
    return pull.sum() / num_with_positives + push.mean(), present.any().astype(jnp.float32)


@against_proxies(single_class=True)
def arcface(
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"],
    mask: Float[Array, " B"],
    proxies: Float[Array, "C D"],
    *,
    margin: float = 0.5,
    scale: float = 64.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """ArcFace (Deng et al. 2019, arXiv:1801.07698, equation 3).

    Cross-entropy of scaled cosines, with the angle to the own class enlarged by `margin` radians.
    """
    cosines = jnp.clip(_cosines(embeddings, proxies), -_MAX_COSINE, _MAX_COSINE)
    enlarged = cosines * jnp.cos(margin) - jnp.sqrt(1 - cosines**2) * jnp.sin(margin)
    own = labels[:, None] == jnp.arange(len(proxies))
    logits = scale * jnp.where(own, enlarged, cosines)
    losses = -jnp.where(own, jax.nn.log_softmax(logits), 0).sum(-1)
    present = mask > 0
    return (losses * present).sum(), present.sum().astype(jnp.float32)


def _cosines(embeddings: jax.Array, proxies: jax.Array) -> jax.Array:
    embeddings, proxies = embeddings.astype(jnp.float32), proxies.astype(jnp.float32)
    return jnp.matmul(embeddings, proxies.T, precision="highest")
