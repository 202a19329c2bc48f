"""Losses over the pairs of a batch, in memory that grows with the batch and not with its square.

All images of the global batch are anchors, and all others their positives (of the same class) and
negatives: with the batch split over devices, each device compares its own anchors with the images
of all devices. Anchors are processed in chunks, whose similarities are recomputed in the backward
pass.

Embeddings are float [B, D] of unit length; labels are class indices int32 [B] or tag states
int8 [B, T] (see `pair_masks`); "same class" means positive as defined there. `mask` [B] is 0 for
rows that take no part. Each loss returns float32 scalars (sum, weight): the loss that gradients are
taken of is sum / weight.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Int8

from jaxtag.distributed import mesh
from jaxtag.losses.metric import pair_masks

# (embeddings float32 [R, D], labels [R, …], whether each takes part [R], indices in the batch [R])
Rows = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
WeightedSum = tuple[jax.Array, jax.Array]
# (similarities float32 [R, B] of R anchors, positive pairs bool [R, B], negative pairs bool [R, B])
# -> (losses, weights), which are summed.
AnchorLoss = Callable[[jax.Array, jax.Array, jax.Array], WeightedSum]

_ANCHORS = 128  # chunk of anchors on each device
_MASKED = -1e9  # exponent of a masked-out term; finite, so that its gradient is 0


def sum_over_anchors(
    anchor_loss: AnchorLoss,
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"] | Int8[Array, "B T"],
    mask: Float[Array, " B"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums the losses and weights of `anchor_loss` over all anchors of the batch.

    Within a mesh (`jax.sharding.use_abstract_mesh`) each device gathers all embeddings once and
    takes its own rows as anchors.
    """
    rows = embeddings.astype(jnp.float32), labels, mask > 0, jnp.arange(len(labels))
    if jax.sharding.get_abstract_mesh().empty:
        return _sums(anchor_loss, rows, rows)

    def on_device(rows: Rows) -> WeightedSum:
        candidates = jax.lax.all_gather(rows, mesh.BATCH_AXES, tiled=True)
        return jax.lax.psum(_sums(anchor_loss, rows, candidates), mesh.BATCH_AXES)

    batch = PartitionSpec(mesh.BATCH_AXES)
    return jax.shard_map(on_device, in_specs=(batch,), out_specs=PartitionSpec())(rows)


def _sums(anchor_loss: AnchorLoss, anchors: Rows, candidates: Rows) -> WeightedSum:
    """The sums over `anchors`, chunk by chunk, each against all `candidates`."""
    count = len(anchors[1])
    chunk = next(n for n in range(min(_ANCHORS, count), 0, -1) if count % n == 0)
    other_vectors, other_labels, other_present, other_indices = candidates

    @jax.checkpoint
    def chunk_sums(anchors: Rows) -> WeightedSum:
        vectors, labels, present, indices = anchors
        similarity = jnp.matmul(vectors, other_vectors.T, precision="highest")
        same, different = pair_masks.positive_negative_masks(labels, other_labels)
        pairs = present[:, None] & other_present & (indices[:, None] != other_indices)
        losses, weights = anchor_loss(similarity, same & pairs, different & pairs)
        return losses.sum(), weights.sum().astype(jnp.float32)

    chunks = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), anchors)
    return jax.tree.map(jnp.sum, jax.lax.map(chunk_sums, chunks))


def distance(similarity: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """Euclidean distance of unit vectors; without a gradient at 0, where it would be infinite."""
    return jnp.sqrt(jnp.maximum(2 - 2 * similarity, 1e-6))


def log_one_plus(
    exponents: Float[Array, "R N"], included: Bool[Array, "R N"], axis: int = -1
) -> Float[Array, " M"]:
    """log(1 + sum of exp(exponents) where `included`) along `axis`."""
    exponents = jnp.where(included, exponents, _MASKED)
    return jax.nn.softplus(jax.nn.logsumexp(exponents, axis))


def contrastive(
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"] | Int8[Array, "B T"],
    mask: Float[Array, " B"],
    *,
    margin: float = 1.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Contrastive loss: the mean over pairs of D² / 2 (same class) or max(0, margin - D)² / 2.

    D is the Euclidean distance (Hadsell et al. 2006, "Dimensionality Reduction by Learning an
    Invariant Mapping", equation 4).
    """

    def anchor_loss(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        pull = positive * (1 - similarity)
        push = negative * jnp.square(jnp.maximum(margin - distance(similarity), 0)) / 2
        return pull + push, positive | negative

    return sum_over_anchors(anchor_loss, embeddings, labels, mask)


def n_pair(
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"] | Int8[Array, "B T"],
    mask: Float[Array, " B"],
    *,
    scale: float = 16.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """N-pair loss: the mean over positive pairs of log(1 + sum over negatives of exp(s_an - s_ap)).

    (Sohn 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", section 3.)
    The paper's batch has one pair of each class, and the negatives of an anchor are the other
    halves of the other pairs; here they are all images of other classes, for any number per class.
    Embeddings have unit length, so similarities are multiplied by `scale` in place of the paper's
    regularized norms.
    """

    def anchor_loss(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        scaled = scale * similarity
        others = jax.nn.logsumexp(jnp.where(negative, scaled, _MASKED), -1, keepdims=True)
        return positive * jax.nn.softplus(others - scaled), positive

    return sum_over_anchors(anchor_loss, embeddings, labels, mask)


def multi_similarity(
    embeddings: Float[Array, "B D"],
    labels: Int[Array, " B"] | Int8[Array, "B T"],
    mask: Float[Array, " B"],
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    margin: float = 0.1,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Multi-similarity loss with its pair mining (Wang et al. 2019, arXiv:1904.06627, section 4).

    The mean over anchors of log(1 + sum of exp(-alpha (s_ap - base))) / alpha
    + log(1 + sum of exp(beta (s_an - base))) / beta, over the negatives more similar than the least
    similar positive less `margin`, and the positives less similar than the most similar negative
    plus `margin`. The default of `base` is that of the authors' code.
    """

    def anchor_loss(similarity: jax.Array, positive: jax.Array, negative: jax.Array) -> WeightedSum:
        furthest = jnp.where(positive, similarity, jnp.inf).min(-1, keepdims=True)
        nearest = jnp.where(negative, similarity, -jnp.inf).max(-1, keepdims=True)
        hard_positive = positive & (similarity < nearest + margin)
        hard_negative = negative & (similarity > furthest - margin)
        pull = log_one_plus(-alpha * (similarity - base), hard_positive) / alpha
        push = log_one_plus(beta * (similarity - base), hard_negative) / beta
        return pull + push, jnp.zeros(())

    total, _ = sum_over_anchors(anchor_loss, embeddings, labels, mask)
    return total, (mask > 0).sum().astype(jnp.float32)
