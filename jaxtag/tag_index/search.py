"""Compiled functions of nearest-neighbor search on one device's shard of the vectors.

Exact search has two passes. The first computes all products, in bfloat16 where the hardware has
units for it (a third to a quarter of float32's time), and keeps the maximum of each group of rows.
The second recomputes the scores of the best groups' rows in float32, always in the same order. A
bound on the rounding error of the first pass tells for each query whether a row outside of these
groups could be among the nearest; such queries are searched again with more groups, and finally
exhaustively.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 4096  # maximum number of rows whose products with the queries are in memory at a time
_EPSILON = 2.0**-23


class Table(NamedTuple):
    """Vectors and free rows: C rows, a multiple of their block.

    Attributes:
        vectors: float32 [C, D].
        coarse: bfloat16 [C, D], the same rounded; None where the first pass uses `vectors`.
        bias: float32 [C], added to a product with a query: 0, or -|row|²/2 for Euclidean distances;
            -inf for a free row.
    """

    vectors: jax.Array
    coarse: jax.Array | None
    bias: jax.Array


class SearchResult(NamedTuple):
    """The nearest rows of each query, nearest first; ties go to the lower id.

    Attributes:
        scores: float32 [Q, K], -inf where there are fewer rows.
        ids: int32 [Q, K], undefined there.
        is_exact: bool [Q], whether it is certain that no other row is nearer.
    """

    scores: jax.Array
    ids: jax.Array
    is_exact: jax.Array


def block_size(capacity: int) -> int:
    """Rows per block of a table with `capacity` rows."""
    return min(BLOCK, capacity)


def group_size(dimension: int) -> int:
    """Rows per group, of which the first pass keeps the maximum score; a power of two.

    The second pass reads whole groups, which costs more the longer the vectors are; selecting among
    the groups costs more the smaller they are.
    """
    return 1 << max(0, min(3, (2048 // dimension).bit_length() - 1))


def nearest(
    table: Table,
    queries: jax.Array,
    limits: jax.Array,
    *,
    metric: str,
    count: int,
    num_groups: int,
    approximate: bool = False,
) -> SearchResult:
    """Finds the `count` nearest rows among those of the `num_groups` best groups.

    Args:
        table: the vectors.
        queries: float32 [Q, D].
        limits: float32 [2], upper bounds on the length of a row and of a row's rounding error.
        metric: see `VectorIndex`.
        count: K.
        num_groups: at least `count`, and fewer than the table has.
        approximate: groups are selected by `lax.approx_max_k` (Chern et al. 2022, arXiv:2206.14286)
            where that is faster, and the result counts as exact.
    """
    rounded = queries if table.coarse is None else queries.astype(jnp.bfloat16)
    maxima = _group_maxima(table, rounded)
    best, groups = (_approximate_top if approximate else lax.top_k)(maxima, num_groups)
    if approximate:
        is_exact = jnp.ones(len(queries), bool)
    else:
        error = _error_bound(queries, rounded.astype(jnp.float32), limits)
        # `count` rows have at least this score less its error; rows outside of the groups have at
        # most the last group's score plus its error.
        # (Minima, not slices: XLA would fuse these with top_k, and on CPU sort all maxima then.)
        last = best.min(1)
        needed = jnp.where(jnp.arange(num_groups) < count, best, jnp.inf).min(1) - 2 * error
        is_exact = (last < needed) | (last == -jnp.inf)
    ids = _group_members(groups, *table.vectors.shape)
    scores = exact_scores(table.vectors[ids], queries[:, None], metric)
    scores = jnp.where(table.bias[ids] == -jnp.inf, -jnp.inf, scores)
    scores, order = lax.top_k(scores, count)
    return SearchResult(scores, jnp.take_along_axis(ids, order, 1), is_exact)


def nearest_exhaustive(
    table: Table, queries: jax.Array, *, metric: str, count: int
) -> SearchResult:
    """Finds the `count` nearest of all rows, scored in float32; `count` may exceed their number."""
    size = len(table.vectors)
    block = block_size(size)

    def step(
        best: tuple[jax.Array, jax.Array], start: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        rows = lax.dynamic_slice_in_dim(table.vectors, start, block)
        bias = lax.dynamic_slice_in_dim(table.bias, start, block)
        scores = exact_scores(rows[None], queries[:, None], metric)
        scores = jnp.where(bias == -jnp.inf, -jnp.inf, scores)
        ids = jnp.broadcast_to(start + jnp.arange(block), scores.shape)
        scores = jnp.concatenate([best[0], scores], 1)
        ids = jnp.concatenate([best[1], ids], 1)
        scores, order = lax.top_k(scores, count)
        return (scores, jnp.take_along_axis(ids, order, 1)), None

    none = (jnp.full((len(queries), count), -jnp.inf), jnp.zeros((len(queries), count), jnp.int32))
    (scores, ids), _ = lax.scan(step, none, jnp.arange(0, size, block))
    return SearchResult(scores, ids, jnp.ones(len(queries), bool))


def exact_scores(rows: jax.Array, queries: jax.Array, metric: str) -> jax.Array:
    """Scores float32 of rows and queries [..., D], always summed in the same order."""
    if metric == "euclidean":
        return -jnp.square(queries - rows).sum(-1)
    return (queries * rows).sum(-1)


def _group_maxima(table: Table, rounded: jax.Array) -> jax.Array:
    """The maximum score of each group, [Q, groups], from products in the first pass's dtype."""
    size, dimension = table.vectors.shape
    block, group = block_size(size), group_size(dimension)
    vectors = table.vectors if table.coarse is None else table.coarse
    blocks, biases = vectors.reshape(-1, block, dimension), table.bias.reshape(-1, block)

    def step(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        rows, bias = part
        product = jnp.einsum("qd,rd->qr", rounded, rows, preferred_element_type=jnp.float32)
        return None, (product + bias).reshape(len(rounded), group, -1).max(1)

    _, maxima = lax.scan(step, None, (blocks, biases))
    return maxima.swapaxes(0, 1).reshape(len(rounded), -1)


def _group_members(groups: jax.Array, size: int, dimension: int) -> jax.Array:
    """The rows int32 [Q, N * group] of groups [Q, N], in ascending order.

    The rows of a group are strided over their block, so that the maxima of all groups are an
    elementwise maximum of whole vectors.
    """
    block, group = block_size(size), group_size(dimension)
    stride = block // group
    first = groups // stride * block + groups % stride
    members = first[:, :, None] + jnp.arange(group) * stride
    return jnp.sort(members.reshape(len(groups), -1), axis=1)


def _error_bound(queries: jax.Array, rounded: jax.Array, limits: jax.Array) -> jax.Array:
    """The maximum difference between the scores of the first and the second pass, [Q].

    |q·x - q'·x'| <= |q - q'| |x| + |q'| |x - x'| for rounded q' and x'; and the errors of sums of D
    terms in float32, of products, of squared rows and of squared differences (Higham 2002,
    section 3.1).
    """
    length, rounding = limits
    queries_length = jnp.linalg.norm(queries, axis=-1)
    error = jnp.linalg.norm(queries - rounded, axis=-1) * length
    error += jnp.linalg.norm(rounded, axis=-1) * rounding
    sums = (queries.shape[-1] + 8) * _EPSILON * jnp.square(queries_length + length)
    return error * (1 + 1e-5) + sums


def _approximate_top(maxima: jax.Array, num_groups: int) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(
        maxima,
        cpu=lambda x: tuple(lax.top_k(x, num_groups)),
        default=lambda x: tuple(lax.approx_max_k(x, num_groups)),
    )
