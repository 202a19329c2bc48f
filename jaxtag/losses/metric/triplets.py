"""Triplet losses: an anchor, a positive of its class, a negative of another.

Arguments, results and memory are those of `pairs`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8

from jaxtag.losses.metric.pairs import WeightedSum, distance, sum_over_anchors


def triplet_all(
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"] | Int8[Array, "B T"],
    mask: Float[Array, " B"],
    *,
    margin: float = 0.2,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Triplet loss over all triplets: the mean of margin + D_ap - D_an where it is above 0.

    D is Euclidean ("batch all" with the non-zero mean: Hermans et al. 2017, arXiv:1703.07737,
    section 2). The negatives of an anchor
    are sorted once; the sum over those within a positive's reach is then a difference of partial
    sums, so that no array has an entry for each triplet.
    """

    def anchor_loss(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        distances = distance(similarity)
        sorted_negatives = _sort_where(distances, negative)
        sums = jnp.cumsum(jnp.where(jnp.isfinite(sorted_negatives), sorted_negatives, 0), -1)
        sums = jnp.pad(sums, ((0, 0), (1, 0)))
        reach = distances + margin
        num_within = _count_below(sorted_negatives, reach) * positive
        return num_within * reach - jnp.take_along_axis(sums, num_within, -1), num_within

    return sum_over_anchors(anchor_loss, embeddings, labels, mask)


def triplet_hard(
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"] | Int8[Array, "B T"],
    mask: Float[Array, " B"],
    *,
    margin: float = 0.2,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Triplet loss of the hardest pairs: the mean over anchors of max(0, margin + D_ap - D_an).

    D is Euclidean, the positive is the furthest and the negative the nearest ("batch hard": Hermans
    et al. 2017, arXiv:1703.07737, equation 5). Anchors without a positive or a negative are left
    out.
    """

    def anchor_loss(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        distances = distance(similarity)
        furthest = jnp.where(positive, distances, 0).max(-1)
        nearest = jnp.where(negative, distances, 2).min(-1)  # no distance is above 2
        complete = positive.any(-1) & negative.any(-1)
        return complete * jnp.maximum(margin + furthest - nearest, 0), complete

    return sum_over_anchors(anchor_loss, embeddings, labels, mask)


def triplet_semi_hard(
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"] | Int8[Array, "B T"],
    mask: Float[Array, " B"],
    *,
    margin: float = 0.2,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Semi-hard triplet loss: the mean over positive pairs of margin + D²_ap - D²_an.

    The negative is the nearest that is further than the positive; pairs without a negative within
    their margin are left out (Schroff et al. 2015, arXiv:1503.03832, sections 3.1 and 3.2).
    """

    def anchor_loss(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        squared_distances = 2 - 2 * similarity
        sorted_negatives = _sort_where(squared_distances, negative)
        sorted_negatives = jnp.pad(sorted_negatives, ((0, 0), (0, 1)), constant_values=jnp.inf)
        next_further = _count_below(sorted_negatives, squared_distances, or_equal=True)
        nearest = jnp.take_along_axis(sorted_negatives, next_further, -1)
        within = positive & (nearest < squared_distances + margin)
        nearest = jnp.where(within, nearest, 0)
        return within * (margin + squared_distances - nearest), within

    return sum_over_anchors(anchor_loss, embeddings, labels, mask)


def _sort_where(distances: jax.Array, included: jax.Array) -> jax.Array:
    """Each row's included distances in ascending order, padded with infinity."""
    return jnp.sort(jnp.where(included, distances, jnp.inf), -1)


def _count_below(ordered: jax.Array, values: jax.Array, or_equal: bool = False) -> jax.Array:
    """How many of each row of `ordered` [R, N] lie below each of its `values` [R, M]: int32."""
    side = "right" if or_equal else "left"
    search = jax.vmap(lambda row, value: jnp.searchsorted(row, value, side=side))
    return search(ordered, jax.lax.stop_gradient(values))
