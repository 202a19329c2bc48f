"""Losses over the pairs of a batch, in memory that grows with the batch and not with its square.

All pictures of the global batch are anchors, and all others their positives (of the same class)
and negatives: with the batch split over devices, each device takes its own anchors against the
pictures of all. Some anchors are taken at a time, and their similarities are computed again in the
backward pass.

Embeddings are float [B, D] of length 1, labels int32 [B] or int8 [B, T] as `alike` has them, `mask`
[B] (0: takes no part). "Of a class" means alike throughout. Each loss gives float32 scalars (sum,
weight): the loss is sum / weight, which gradients are taken of.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxtag.distributed import mesh as meshes
from jaxtag.losses.metric import pair_masks

# (embeddings float32 [R, D], labels [R, …], whether each takes part [R], places in the batch [R])
Rows = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
WeightedSum = tuple[jax.Array, jax.Array]
# (similarities float32 [R, B] of R anchors, which pairs are positive, which negative [R, B])
# → (losses, weights), which are added up.
AnchorLoss = Callable[[jax.Array, jax.Array, jax.Array], WeightedSum]

_ANCHORS = 128  # at a time, on each device
_NEVER = -1e9  # an exponent of what takes no part; finite, so that its gradient is 0


def sum_over_anchors(
    of_anchors: AnchorLoss, embeddings: jax.Array, labels: jax.Array, mask: jax.Array
) -> WeightedSum:
    """The sums of `of_anchors` over all anchors of the batch.

    Within a mesh (`jax.sharding.use_abstract_mesh`) each device gathers the embeddings of all once
    and takes its own rows as anchors.
    """
    rows = embeddings.astype(jnp.float32), labels, mask > 0, jnp.arange(len(labels))
    if jax.sharding.get_abstract_mesh().empty:
        return _sums(of_anchors, rows, rows)

    def on_device(rows: Rows) -> WeightedSum:
        pictures = jax.lax.all_gather(rows, meshes.BATCH_AXES, tiled=True)
        return jax.lax.psum(_sums(of_anchors, rows, pictures), meshes.BATCH_AXES)

    over = PartitionSpec(meshes.BATCH_AXES)
    return jax.shard_map(on_device, in_specs=(over,), out_specs=PartitionSpec())(rows)


def _sums(of_anchors: AnchorLoss, anchors: Rows, pictures: Rows) -> WeightedSum:
    """The sums over `anchors`, some of them at a time, each against all `pictures`."""
    count = len(anchors[1])
    at_a_time = next(n for n in range(min(_ANCHORS, count), 0, -1) if count % n == 0)

    @jax.checkpoint
    def part(anchors: Rows) -> WeightedSum:
        (vectors, labels, present, places), (others, their_labels, there, theirs) = (
            anchors,
            pictures,
        )
        similarity = jnp.matmul(vectors, others.T, precision="highest")
        same, other = pair_masks.positive_negative_masks(labels, their_labels)
        pairs = present[:, None] & there & (places[:, None] != theirs)
        losses, weights = of_anchors(similarity, same & pairs, other & pairs)
        return losses.sum(), weights.sum().astype(jnp.float32)

    parts = jax.tree.map(lambda x: x.reshape(-1, at_a_time, *x.shape[1:]), anchors)
    return jax.tree.map(jnp.sum, jax.lax.map(part, parts))


def distance(similarity: jax.Array) -> jax.Array:
    """Euclidean, of vectors of length 1; at 0 without a gradient, which would be infinite."""
    return jnp.sqrt(jnp.maximum(2 - 2 * similarity, 1e-6))


def log_one_plus(exponents: jax.Array, kept: jax.Array, axis: int = -1) -> jax.Array:
    """log(1 + sum of exp(exponents) where `kept`)."""
    exponents = jnp.where(kept, exponents, _NEVER)
    return jax.nn.softplus(jax.nn.logsumexp(exponents, axis))


def contrastive(
    embeddings: jax.Array, labels: jax.Array, mask: jax.Array, *, margin: float = 1.0
) -> WeightedSum:
    """The mean over all pairs of D² / 2 (same class) or max(0, margin - D)² / 2 (another).

    D is the Euclidean distance (Hadsell et al. 2006, "Dimensionality Reduction by Learning an
    Invariant Mapping", equation 4).
    """

    def of_anchors(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        pull = positive * (1 - similarity)
        push = negative * jnp.square(jnp.maximum(margin - distance(similarity), 0)) / 2
        return pull + push, positive | negative

    return sum_over_anchors(of_anchors, embeddings, labels, mask)


def n_pair(
    embeddings: jax.Array, labels: jax.Array, mask: jax.Array, *, scale: float = 16.0
) -> WeightedSum:
    """The mean over pairs of a class of log(1 + sum over negatives of exp(s_an - s_ap)).

    (Sohn 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective",
    section 3.)
    There a batch has one pair of each class, and the negatives of its anchor are the other halves
    of the other pairs; here they are all pictures of other classes, for any number of a class.
    Embeddings have length 1, so similarities are multiplied with `scale` in place of the paper's
    regularised lengths.
    """

    def of_anchors(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        scaled = scale * similarity
        others = jax.nn.logsumexp(jnp.where(negative, scaled, _NEVER), -1, keepdims=True)
        return positive * jax.nn.softplus(others - scaled), positive

    return sum_over_anchors(of_anchors, embeddings, labels, mask)


def multi_similarity(
    embeddings: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    margin: float = 0.1,
) -> WeightedSum:
    """Multi-similarity with its mining (Wang et al. 2019, arXiv:1904.06627, section 4).

    The mean over anchors of log(1 + sum of exp(-alpha (s_ap - base))) / alpha
    + log(1 + sum of exp(beta (s_an - base))) / beta, over the negatives more similar than the least
    similar positive less `margin`, and the positives less similar than the most similar negative
    plus `margin`. The default of `base` is that of the authors' code.
    """

    def of_anchors(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        furthest = jnp.where(positive, similarity, jnp.inf).min(-1, keepdims=True)
        nearest = jnp.where(negative, similarity, -jnp.inf).max(-1, keepdims=True)
        pulled = positive & (similarity < nearest + margin)
        pushed = negative & (similarity > furthest - margin)
        pull = log_one_plus(-alpha * (similarity - base), pulled) / alpha
        push = log_one_plus(beta * (similarity - base), pushed) / beta
        return pull + push, jnp.zeros(())

    total, _ = sum_over_anchors(of_anchors, embeddings, labels, mask)
    return total, (mask > 0).sum().astype(jnp.float32)
