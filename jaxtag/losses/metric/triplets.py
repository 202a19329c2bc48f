"""Triplet losses: an anchor, a positive of its class, a negative of another.

Arguments, results and memory are those of `pairs`.
"""

import jax
import jax.numpy as jnp

from jaxtag.losses.metric.pairs import WeightedSum, distance, sum_over_anchors


def triplet_all(
    embeddings: jax.Array, labels: jax.Array, mask: jax.Array, *, margin: float = 0.2
) -> WeightedSum:
    """The mean of margin + D_ap - D_an over all triplets where it is above 0, D Euclidean.

    (Hermans et al. 2017, arXiv:1703.07737, section 2: "batch all", non-zero mean.) The negatives
    of an anchor are sorted once; the sum over those within a positive's reach is then a difference
    of partial sums, so that no array has an entry for each triplet.
    """

    def of_anchors(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        gaps = distance(similarity)
        ordered = _ordered(gaps, negative)
        sums = jnp.cumsum(jnp.where(jnp.isfinite(ordered), ordered, 0), -1)
        sums = jnp.pad(sums, ((0, 0), (1, 0)))
        reach = gaps + margin
        within = _count_below(ordered, reach) * positive
        return within * reach - jnp.take_along_axis(sums, within, -1), within

    return sum_over_anchors(of_anchors, embeddings, labels, mask)


def triplet_hard(
    embeddings: jax.Array, labels: jax.Array, mask: jax.Array, *, margin: float = 0.2
) -> WeightedSum:
    """The mean over anchors of max(0, margin + D_ap - D_an), D Euclidean.

    The positive is the furthest, the negative the nearest (Hermans et al. 2017, arXiv:1703.07737,
    equation 5: "batch hard"). Anchors without either are left out.
    """

    def of_anchors(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        gaps = distance(similarity)
        furthest = jnp.where(positive, gaps, 0).max(-1)
        nearest = jnp.where(negative, gaps, 2).min(-1)  # no distance is above 2
        complete = positive.any(-1) & negative.any(-1)
        return complete * jnp.maximum(margin + furthest - nearest, 0), complete

    return sum_over_anchors(of_anchors, embeddings, labels, mask)


def triplet_semi_hard(
    embeddings: jax.Array, labels: jax.Array, mask: jax.Array, *, margin: float = 0.2
) -> WeightedSum:
    """The mean over pairs of a class of margin + D²_ap - D²_an.

    The negative is the nearest that is further than the positive; pairs whose margin it leaves free
    are left out (Schroff et al. 2015, arXiv:1503.03832, sections 3.1 and 3.2).
    """

    def of_anchors(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        gaps = 2 - 2 * similarity
        ordered = _ordered(gaps, negative)
        ordered = jnp.pad(ordered, ((0, 0), (0, 1)), constant_values=jnp.inf)
        beyond = _count_below(ordered, gaps, or_equal=True)
        nearest = jnp.take_along_axis(ordered, beyond, -1)
        within = positive & (nearest < gaps + margin)
        nearest = jnp.where(within, nearest, 0)
        return within * (margin + gaps - nearest), within

    return sum_over_anchors(of_anchors, embeddings, labels, mask)


def _ordered(gaps: jax.Array, kept: jax.Array) -> jax.Array:
    """Each row's distances that are kept, ascending; then infinity."""
    return jnp.sort(jnp.where(kept, gaps, jnp.inf), -1)


def _count_below(ordered: jax.Array, values: jax.Array, or_equal: bool = False) -> jax.Array:
    """How many of each row of `ordered` [R, N] lie below each of its `values` [R, M]: int32."""
    side = "right" if or_equal else "left"
    search = jax.vmap(lambda row, value: jnp.searchsorted(row, value, side=side))
    return search(ordered, jax.lax.stop_gradient(values))
