"""The rows nearest to queries, on one device's share of them: compiled functions.

Exact search has two passes. The first computes all products, in bfloat16 where there are units for
it (a third to a quarter of float32's time), and keeps the largest of each group of rows. The
second computes the scores of the best groups' rows anew in float32, always in the same order. A
bound on the rounding of the first pass says for each query whether a row outside of these groups
could belong to the nearest; such queries are searched again with more groups, and in the end with
all rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 4096  # rows, at most, whose products with the queries lie in memory at once
_EPSILON = 2.0**-23


class Table(NamedTuple):
    """Rows with room for more: C of them, a multiple of their block.

    Attributes:
      rows: float32 [C, D].
      coarse: bfloat16 [C, D]: the same, rounded; None where the first pass takes the rows.
      bias: float32 [C], added to a product with a query: 0, or -|row|²/2 where distances count;
        -inf where there is no row.
    """

    rows: jax.Array
    coarse: jax.Array | None
    bias: jax.Array


class Found(NamedTuple):
    """The nearest rows of each query, nearest first, of equally near ones the lower number first.

    Attributes:
      scores: float32 [Q, K], -inf where there are fewer rows.
      numbers: int32 [Q, K], of no meaning there.
      proven: bool [Q]: no other row is nearer.
    """

    scores: jax.Array
    numbers: jax.Array
    proven: jax.Array


def block_of(rows: int) -> int:
    """Rows of a block, where there is room for `rows` of them."""
    return min(BLOCK, rows)


def group_of(dimension: int) -> int:
    """Rows of which the first pass keeps the largest score, a power of two.

    The second pass reads whole groups, which costs more the longer vectors are; choosing among the
    groups costs more the smaller they are.
    """
    return 1 << max(0, min(3, (2048 // dimension).bit_length() - 1))


def nearest(
    table: Table,
    queries: jax.Array,
    limits: jax.Array,
    *,
    metric: str,
    count: int,
    groups: int,
    approximate: bool = False,
) -> Found:
    """The `count` nearest of the table's rows among those of the `groups` best groups.

    Args:
      queries: float32 [Q, D].
      limits: float32 [2]: the length of no row, and of no row's rounding, is larger.
      groups: at least `count`, and fewer than the table has.
      approximate: groups are chosen by `lax.approx_max_k` (Chern et al. 2022, arXiv:2206.14286)
        where that is faster, and nothing is proven.
    """
    rounded = queries if table.coarse is None else queries.astype(jnp.bfloat16)
    maxima = _maxima(table, rounded)
    best, chosen = (_approximate_top if approximate else lax.top_k)(maxima, groups)
    if approximate:
        proven = jnp.ones(len(queries), bool)
    else:
        error = _error(queries, rounded.astype(jnp.float32), limits)
        # `count` rows have at least this score, less its error; those that are left out had at
        # most the last one's, plus its error.
        # (Minima, not slices: XLA would join these with top_k, and on CPU sort all maxima then.)
        last = best.min(1)
        enough = jnp.where(jnp.arange(groups) < count, best, jnp.inf).min(1) - 2 * error
        proven = (last < enough) | (last == -jnp.inf)
    numbers = _members(chosen, *table.rows.shape)
    scores = fine(table.rows[numbers], queries[:, None], metric)
    scores = jnp.where(table.bias[numbers] == -jnp.inf, -jnp.inf, scores)
    scores, order = lax.top_k(scores, count)
    return Found(scores, jnp.take_along_axis(numbers, order, 1), proven)


def nearest_of_all(table: Table, queries: jax.Array, *, metric: str, count: int) -> Found:
    """The `count` nearest of all rows, each scored in float32; `count` may exceed their number."""
    size = len(table.rows)
    block = block_of(size)

    def step(best: tuple[jax.Array, jax.Array], start: jax.Array) -> tuple[tuple, None]:
        rows = lax.dynamic_slice_in_dim(table.rows, start, block)
        bias = lax.dynamic_slice_in_dim(table.bias, start, block)
        scores = fine(rows[None], queries[:, None], metric)
        scores = jnp.where(bias == -jnp.inf, -jnp.inf, scores)
        numbers = jnp.broadcast_to(start + jnp.arange(block), scores.shape)
        scores = jnp.concatenate([best[0], scores], 1)
        numbers = jnp.concatenate([best[1], numbers], 1)
        scores, order = lax.top_k(scores, count)
        return (scores, jnp.take_along_axis(numbers, order, 1)), None

    none = (jnp.full((len(queries), count), -jnp.inf), jnp.zeros((len(queries), count), jnp.int32))
    (scores, numbers), _ = lax.scan(step, none, jnp.arange(0, size, block))
    return Found(scores, numbers, jnp.ones(len(queries), bool))


def fine(rows: jax.Array, queries: jax.Array, metric: str) -> jax.Array:
    """Scores float32 of rows and queries [..., D], summed in one order wherever a row lies."""
    if metric == "euclidean":
        return -jnp.square(queries - rows).sum(-1)
    return (queries * rows).sum(-1)


def _maxima(table: Table, rounded: jax.Array) -> jax.Array:
    """The largest score of each group, [Q, groups], from products in the first pass's dtype."""
    size, dimension = table.rows.shape
    block, group = block_of(size), group_of(dimension)
    seen = table.rows if table.coarse is None else table.coarse
    seen, bias = seen.reshape(-1, block, dimension), table.bias.reshape(-1, block)

    def step(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        rows, bias = part
        product = jnp.einsum("qd,rd->qr", rounded, rows, preferred_element_type=jnp.float32)
        return None, (product + bias).reshape(len(rounded), group, -1).max(1)

    _, maxima = lax.scan(step, None, (seen, bias))
    return maxima.swapaxes(0, 1).reshape(len(rounded), -1)


def _members(groups: jax.Array, size: int, dimension: int) -> jax.Array:
    """The rows int32 [Q, N * group] of groups [Q, N], in ascending order.

    The rows of a group lie apart in their block, so that the largest of each group is one of whole
    vectors.
    """
    block, group = block_of(size), group_of(dimension)
    apart = block // group
    first = groups // apart * block + groups % apart
    members = first[:, :, None] + jnp.arange(group) * apart
    return jnp.sort(members.reshape(len(groups), -1), axis=1)


def _error(queries: jax.Array, rounded: jax.Array, limits: jax.Array) -> jax.Array:
    """How far the first pass's scores may be from the second's, [Q].

    |q·x - q'·x'| <= |q - q'| |x| + |q'| |x - x'|, for rounded q' and x'; and the sums of D terms in
    float32, of products, of squared rows and of squared differences (Higham 2002, section 3.1).
    """
    length, rounding = limits
    queries_length = jnp.linalg.norm(queries, axis=-1)
    error = jnp.linalg.norm(queries - rounded, axis=-1) * length
    error += jnp.linalg.norm(rounded, axis=-1) * rounding
    sums = (queries.shape[-1] + 8) * _EPSILON * jnp.square(queries_length + length)
    return error * (1 + 1e-5) + sums


def _approximate_top(maxima: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(
        maxima,
        cpu=lambda x: tuple(lax.top_k(x, groups)),
        default=lambda x: tuple(lax.approx_max_k(x, groups)),
    )
