"""Exact nearest-neighbor search over vectors on the devices; it grows without recompiling."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int64, Integer

from jaxtag.distributed import mesh as meshes
from jaxtag.tag_index import search
from jaxtag.tag_index.search import SearchResult, Table

METRICS = ("cosine", "inner_product", "euclidean", "hellinger")
_MIN_CAPACITY = 128  # of a device, in rows
_WRITE_CHUNK = 4096  # rows that are written at a time
_QUERY_CHUNK = 256  # queries that are searched at a time; fewer are padded to a power of two
_EXHAUSTIVE_CHUNK = 16  # queries at a time where every row is scored in float32
_SHARDED, _REPLICATED = PartitionSpec("data"), PartitionSpec()


class VectorIndex:
    """Vectors with ids from 0, sharded over the mesh's `data` axis.

    The capacity grows by at least an eighth, and programs are compiled for the capacity: n
    additions compile about log(n) times. On several hosts all processes call the same methods with
    the same arguments.

    Args:
        dimension: D.
        metric: scores are "cosine" similarities, "inner_product"s, "euclidean": minus the squared
            distance, or "hellinger": cosine similarities of the square roots of the values, with
            their signs (Arandjelović and Zisserman 2012, "Three things everyone should know to
            improve object retrieval", section 3), for features that come out of a ReLU.
        mesh: by default of all devices.
    """

    def __init__(self, dimension: int, metric: str = "cosine", mesh: Mesh | None = None):
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r}: must be one of {', '.join(METRICS)}")
        self.metric, self._dimension = metric, dimension
        self._mesh = meshes.make_mesh() if mesh is None else mesh
        self._shards = self._mesh.shape["data"]
        self._count = 0
        # The largest length of a row, and of the rounding error of a row.
        self._limits = np.zeros(2, np.float32)
        self._rounds = _prefers_bfloat16(self._mesh.devices.flat[0])
        self._table = self._empty(self._shards * _MIN_CAPACITY)

    def __len__(self) -> int:
        """The number of ids assigned so far; those of removed vectors are not reused."""
        return self._count

    def add(self, vectors: np.ndarray) -> None:
        """Adds vectors [M, D], which get the next ids. Raises ValueError if one is not finite."""
        self._reserve(self._count + len(vectors))
        for start in range(0, len(vectors), _WRITE_CHUNK):
            rows = self.prepare(vectors[start : start + _WRITE_CHUNK])
            self._write(np.arange(self._count, self._count + len(rows)), rows, self._bias(rows))
            length = np.linalg.norm(rows, axis=1).max()
            error = np.float32(0)
            if self._rounds:
                rounded = np.asarray(jnp.asarray(rows).astype(jnp.bfloat16).astype(jnp.float32))
                error = np.linalg.norm(rows - rounded, axis=1).max()
            # A little more than computed, for the rounding of the norms themselves.
            limits = np.array([length, error], np.float32) * 1.0001
            self._limits = np.maximum(self._limits, limits)
            self._count += len(rows)

    def remove(self, ids: Sequence[int] | Integer[np.ndarray, " M"]) -> None:
        """Removes vectors: they are overwritten with zeros and never returned again."""
        ids = np.asarray(ids, np.int64)
        for start in range(0, len(ids), _WRITE_CHUNK):
            chunk = ids[start : start + _WRITE_CHUNK]
            zeros = np.zeros((len(chunk), self._dimension), np.float32)
            self._write(chunk, zeros, np.full(len(chunk), -np.inf, np.float32))

    def search(
        self, queries: np.ndarray, count: int, approximate: bool = False
    ) -> tuple[Float[np.ndarray, "Q K"], Int64[np.ndarray, "Q K"]]:
        """Finds the nearest vectors of each query, nearest first; ties go to the lower id.

        Args:
            queries: [Q, D].
            count: number of neighbors (K).
            approximate: one pass, which may miss some: in bfloat16 and with `lax.approx_max_k`,
                where these are faster.

        Returns:
            (scores float32, ids); -inf and -1 where there are fewer than K vectors.
        """
        queries = self.prepare(queries)
        available = min(count, self._capacity)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        ids = np.full((len(queries), count), -1, np.int64)
        pending = np.arange(len(queries))
        for num_groups in self._group_counts(available, approximate):
            result = self._search(queries[pending], available, num_groups, approximate)
            is_exact = np.asarray(result.is_exact)
            done = pending[is_exact]
            scores[done, :available] = np.asarray(result.scores)[is_exact]
            ids[done, :available] = np.asarray(result.ids)[is_exact]
            pending = pending[~is_exact]
            if not len(pending):
                break
        ids[scores == -np.inf] = -1
        return scores, ids

    def scores(self, queries: np.ndarray) -> Float[np.ndarray, "Q N"]:
        """The score of every vector for each query of [Q, D], float32; -inf for removed ones."""
        queries = self.prepare(queries)
        chunks = []
        for start in range(0, len(queries), _QUERY_CHUNK):
            chunk = queries[start : start + _QUERY_CHUNK]
            scores = _all_scores(self._table, _padded(chunk), metric=self.metric, mesh=self._mesh)
            chunks.append(np.asarray(scores)[: len(chunk), : self._count])
        return np.concatenate(chunks) if chunks else np.zeros((0, self._count), np.float32)

    def prepare(self, vectors: np.ndarray) -> Float[np.ndarray, "N D"]:
        """Checks vectors and converts them to those that are searched.

        Returns:
            float32 [N, D], of unit length for the metrics "cosine" and "hellinger".

        Raises:
            ValueError: the shape is wrong, or a vector is not finite.
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self._dimension:
            raise ValueError(f"vectors of shape {vectors.shape}: not [N, {self._dimension}]")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector is not finite")
        if self.metric == "hellinger":
            vectors = np.sign(vectors) * np.sqrt(np.abs(vectors))
        if self.metric in ("cosine", "hellinger"):
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors

    @property
    def _capacity(self) -> int:
        return len(self._table.vectors)

    def _group_counts(self, count: int, approximate: bool) -> list[int | None]:
        """Numbers of groups to try in turn; None for an exhaustive search."""
        few = count + count // 2 + 8
        candidates = [few] if approximate else [few, 8 * few]
        limit = self._capacity // self._shards // search.group_size(self._dimension)
        return [*(n for n in candidates if n < limit), None]

    def _search(
        self, queries: np.ndarray, count: int, num_groups: int | None, approximate: bool
    ) -> SearchResult:
        size = _EXHAUSTIVE_CHUNK if num_groups is None else _QUERY_CHUNK
        chunks = [queries[start : start + size] for start in range(0, len(queries), size)]
        # All chunks are dispatched before the first result is copied.
        padded_results = [
            _search(
                self._table,
                _padded(chunk),
                self._limits,
                metric=self.metric,
                count=count,
                num_groups=num_groups,
                approximate=approximate,
                mesh=self._mesh,
            )
            for chunk in chunks
        ]
        results = [
            SearchResult(*(np.asarray(array)[: len(chunk)] for array in result))  # type: ignore[arg-type]  # NumPy's
            for result, chunk in zip(padded_results, chunks, strict=True)
        ]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *results)

    def _bias(self, rows: np.ndarray) -> np.ndarray:
        if self.metric == "euclidean":
            return -0.5 * np.square(rows).sum(1)
        return np.zeros(len(rows), np.float32)

    def _empty(self, capacity: int) -> Table:
        make = functools.partial(_empty, capacity, self._dimension, self._rounds)
        return jax.jit(make, out_shardings=NamedSharding(self._mesh, _SHARDED))()

    def _reserve(self, count: int) -> None:
        capacity = self._shards * _capacity_for(-(-count // self._shards))
        if capacity > self._capacity:
            self._table = _grow(self._table, capacity=capacity, mesh=self._mesh)

    def _write(self, ids: np.ndarray, rows: np.ndarray, bias: np.ndarray) -> None:
        count, size = len(ids), _power_of_two(len(ids))
        ids, rows, bias = (_zero_padded(x, size) for x in (ids, rows, bias))
        ids[count:] = self._capacity
        self._table = _write(self._table, ids, rows, bias, mesh=self._mesh)


def _prefers_bfloat16(device: jax.Device) -> bool:
    """Whether products of bfloat16 matrices are faster than of float32 ones."""
    if device.platform != "cpu":
        return True
    with contextlib.suppress(OSError):
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    return False


def _capacity_for(count: int) -> int:
    """Capacity of one device for `count` rows: a power of two, later in steps of an eighth."""
    capacity = max(_MIN_CAPACITY, _power_of_two(count))
    if capacity <= search.BLOCK:
        return capacity
    step = max(search.BLOCK, capacity // 16)
    return -(-count // step) * step


def _power_of_two(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _zero_padded(array: np.ndarray, size: int) -> np.ndarray:
    """`array` with zeros after it, `size` rows."""
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])


def _padded(queries: np.ndarray) -> np.ndarray:
    return _zero_padded(queries, _power_of_two(len(queries)))


def _empty(capacity: int, dimension: int, rounds: bool) -> Table:
    rows = jnp.zeros((capacity, dimension))
    return Table(rows, rows.astype(jnp.bfloat16) if rounds else None, jnp.full(capacity, -jnp.inf))


@functools.partial(jax.jit, static_argnames=("capacity", "mesh"))
def _grow(table: Table, *, capacity: int, mesh: Mesh) -> Table:
    """The same rows, with free rows after them."""
    more = capacity - len(table.vectors)
    rows = jnp.pad(table.vectors, ((0, more), (0, 0)))
    bias = jnp.pad(table.bias, (0, more), constant_values=-jnp.inf)
    coarse = None if table.coarse is None else rows.astype(jnp.bfloat16)
    return lax.with_sharding_constraint(Table(rows, coarse, bias), NamedSharding(mesh, _SHARDED))


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _write(table: Table, ids: jax.Array, rows: jax.Array, bias: jax.Array, *, mesh: Mesh) -> Table:
    """The table with these rows at `ids`; ids beyond its capacity are ignored."""

    def write(table: Table, ids: jax.Array, rows: jax.Array, bias: jax.Array) -> Table:
        size = len(table.vectors)
        local = ids - lax.axis_index("data") * size
        local = jnp.where((local >= 0) & (local < size), local, size)
        new = Table(rows, None if table.coarse is None else rows.astype(jnp.bfloat16), bias)
        return jax.tree.map(lambda old, new: old.at[local].set(new, mode="drop"), table, new)

    in_specs = (_SHARDED, _REPLICATED, _REPLICATED, _REPLICATED)
    return jax.shard_map(write, mesh=mesh, in_specs=in_specs, out_specs=_SHARDED)(
        table, ids, rows, bias
    )


@functools.partial(
    jax.jit, static_argnames=("metric", "count", "num_groups", "approximate", "mesh")
)
def _search(
    table: Table,
    queries: jax.Array,
    limits: jax.Array,
    *,
    metric: str,
    count: int,
    num_groups: int | None,
    approximate: bool,
    mesh: Mesh,
) -> SearchResult:
    """Searches each device's shard, then takes the nearest of their results."""

    def local(table: Table, queries: jax.Array, limits: jax.Array) -> SearchResult:
        if num_groups is None:
            result = search.nearest_exhaustive(table, queries, metric=metric, count=count)
        else:
            result = search.nearest(
                table,
                queries,
                limits,
                metric=metric,
                count=count,
                num_groups=num_groups,
                approximate=approximate,
            )
        ids = result.ids + lax.axis_index("data") * len(table.vectors)
        gather = functools.partial(lax.all_gather, axis_name="data", axis=1, tiled=True)
        # Devices hold their rows in the order of ids: of equal scores the lower id comes first.
        scores, order = lax.top_k(gather(result.scores), count)
        ids = jnp.take_along_axis(gather(ids), order, 1)
        return SearchResult(scores, ids, gather(result.is_exact[:, None]).all(1))

    run = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(_SHARDED, _REPLICATED, _REPLICATED),
        out_specs=_REPLICATED,
        check_vma=False,
    )
    return run(table, queries, limits)


@functools.partial(jax.jit, static_argnames=("metric", "mesh"))
def _all_scores(table: Table, queries: jax.Array, *, metric: str, mesh: Mesh) -> jax.Array:
    scores = jnp.matmul(queries, table.vectors.T, precision="highest")
    if metric == "euclidean":
        squares = jnp.square(queries).sum(1, keepdims=True)
        scores = jnp.minimum(2 * (scores + table.bias) - squares, 0)
    scores = jnp.where(table.bias == -jnp.inf, -jnp.inf, scores)
    return lax.with_sharding_constraint(scores, meshes.replicated(mesh))
