"""Vectors on the devices that can be searched, and become more without compiling anew."""

import contextlib
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtag.distributed import mesh as meshes
from jaxtag.tag_index import search
from jaxtag.tag_index.search import Found, Table

METRICS = ("cosine", "inner_product", "euclidean")
_SMALLEST = 128  # rows that a device has room for
_AT_ONCE = 4096  # rows that are written at once
_QUERIES = 256  # that are searched at once; fewer are padded to a power of two
_ONE_BY_ONE = 16  # queries at once where every row is scored in float32
_SPLIT = PartitionSpec("data")


class VectorIndex:
    """Vectors with numbers from 0, split over the mesh's `data` axis.

    Their room grows by an eighth at least, and programs are compiled for the room: n additions
    compile some log(n) times. On several hosts all processes call the same methods with the same
    arguments.

    Args:
      dimension: D.
      metric: scores are "cosine" similarities, "inner_product"s, or "euclidean": minus the squared
        distance.
      mesh: by default of all devices.
    """

    def __init__(self, dimension: int, metric: str = "cosine", mesh: Mesh | None = None):
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r}: must be one of {', '.join(METRICS)}")
        self.metric, self._dimension = metric, dimension
        self._mesh = meshes.make_mesh() if mesh is None else mesh
        self._shards = self._mesh.shape["data"]
        self._count = 0
        self._limits = np.zeros(2, np.float32)
        self._rounds = _multiplies_bfloat16(self._mesh.devices.flat[0])
        self._table = self._empty(self._shards * _SMALLEST)

    def __len__(self) -> int:
        """How many numbers were given; those of removed rows are not given again."""
        return self._count

    def add(self, rows: np.ndarray) -> None:
        """Adds rows [M, D], which get the next numbers. Raises ValueError if not finite."""
        self._make_room(self._count + len(rows))
        for start in range(0, len(rows), _AT_ONCE):
            part = self.checked(rows[start : start + _AT_ONCE])
            self._write(np.arange(self._count, self._count + len(part)), part, self._bias(part))
            lengths = np.linalg.norm(part, axis=1).max()
            rounding = 0.0
            if self._rounds:
                rounded = np.asarray(jnp.asarray(part).astype(jnp.bfloat16).astype(jnp.float32))
                rounding = np.linalg.norm(part - rounded, axis=1).max()
            # A little more than computed, for the rounding of the lengths themselves.
            self._limits = np.maximum(self._limits, np.float32([lengths, rounding]) * 1.0001)
            self._count += len(part)

    def remove(self, numbers: np.ndarray) -> None:
        """Removes rows by their numbers; they are found no more, and their vectors are zeros."""
        numbers = np.asarray(numbers, np.int64)
        for start in range(0, len(numbers), _AT_ONCE):
            part = numbers[start : start + _AT_ONCE]
            nothing = np.zeros((len(part), self._dimension), np.float32)
            self._write(part, nothing, np.full(len(part), -np.inf, np.float32))

    def search(
        self, queries: np.ndarray, count: int, approximate: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows of each query, nearest first; of equally near ones the first added.

        Args:
          queries: [Q, D].
          count: how many (K).
          approximate: one pass, which may miss some: in bfloat16 and by `lax.approx_max_k`, where
            these are faster.

        Returns:
          (scores float32 [Q, K], numbers int64 [Q, K]); -inf and -1 where there are fewer rows.
        """
        queries = self.checked(queries)
        found = min(count, self._room)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        numbers = np.full((len(queries), count), -1, np.int64)
        pending = np.arange(len(queries))
        for groups in self._levels(found, approximate):
            result = self._search(queries[pending], found, groups, approximate)
            done = pending[result.proven]
            scores[done, :found] = result.scores[result.proven]
            numbers[done, :found] = result.numbers[result.proven]
            pending = pending[~result.proven]
            if not len(pending):
                break
        numbers[scores == -np.inf] = -1
        return scores, numbers

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """The score of every row for each query, float32 [Q, len]; -inf for removed ones."""
        queries = self.checked(queries)
        parts = []
        for start in range(0, len(queries), _QUERIES):
            part = _padded(queries[start : start + _QUERIES])
            kept = len(queries[start : start + _QUERIES])
            found = _all_scores(self._table, part, metric=self.metric, mesh=self._mesh)
            parts.append(np.asarray(found)[:kept, : self._count])
        return np.concatenate(parts) if parts else np.zeros((0, self._count), np.float32)

    def checked(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [N, D] as they are searched, float32. Raises ValueError if one is not finite."""
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self._dimension:
            raise ValueError(f"vectors of shape {vectors.shape}: not [N, {self._dimension}]")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector is not finite")
        if self.metric == "cosine":
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors

    @property
    def _room(self) -> int:
        return len(self._table.rows)

    def _levels(self, count: int, approximate: bool) -> list[int | None]:
        """Numbers of groups to try in turn; None for all rows."""
        few = count + count // 2 + 8
        tried = [few] if approximate else [few, 8 * few]
        most = self._room // self._shards // search.group_of(self._dimension)
        return [groups for groups in tried if groups < most] + [None]

    def _search(
        self, queries: np.ndarray, count: int, groups: int | None, approximate: bool
    ) -> Found:
        size = _ONE_BY_ONE if groups is None else _QUERIES
        starts = range(0, len(queries), size)
        blocks = [queries[start : start + size] for start in starts]
        settings = {"metric": self.metric, "count": count, "groups": groups}
        found = [
            _search(
                self._table,
                _padded(block),
                self._limits,
                approximate=approximate,
                mesh=self._mesh,
                **settings,
            )
            for block in blocks
        ]
        found = [
            Found(*(np.asarray(array)[: len(block)] for array in one))
            for one, block in zip(found, blocks, strict=True)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    def _bias(self, rows: np.ndarray) -> np.ndarray:
        if self.metric == "euclidean":
            return -0.5 * np.square(rows).sum(1)
        return np.zeros(len(rows), np.float32)

    def _empty(self, room: int) -> Table:
        make = functools.partial(_empty, room, self._dimension, self._rounds)
        return jax.jit(make, out_shardings=NamedSharding(self._mesh, _SPLIT))()

    def _make_room(self, count: int) -> None:
        room = self._shards * _room_for(-(-count // self._shards))
        if room > self._room:
            self._table = _grow(self._table, room=room, mesh=self._mesh)

    def _write(self, numbers: np.ndarray, rows: np.ndarray, bias: np.ndarray) -> None:
        count, size = len(numbers), _power_of_two(len(numbers))
        numbers, rows, bias = (_filled(x, size) for x in (numbers, rows, bias))
        numbers[count:] = self._room
        self._table = _write(self._table, numbers, rows, bias, mesh=self._mesh)


def _multiplies_bfloat16(device: jax.Device) -> bool:
    """Whether products of bfloat16 matrices are faster than float32's."""
    if device.platform != "cpu":
        return True
    with contextlib.suppress(OSError):
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    return False


def _room_for(count: int) -> int:
    """Room of one device for `count` rows: a power of two, later in steps of an eighth of one."""
    room = max(_SMALLEST, _power_of_two(count))
    if room <= search.BLOCK:
        return room
    step = max(search.BLOCK, room // 16)
    return -(-count // step) * step


def _power_of_two(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """`array` with zeros after it, `size` rows."""
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])


def _padded(queries: np.ndarray) -> np.ndarray:
    return _filled(queries, _power_of_two(len(queries)))


def _empty(room: int, dimension: int, rounds: bool) -> Table:
    rows = jnp.zeros((room, dimension))
    return Table(rows, rows.astype(jnp.bfloat16) if rounds else None, jnp.full(room, -jnp.inf))


@functools.partial(jax.jit, static_argnames=("room", "mesh"))
def _grow(table: Table, *, room: int, mesh: Mesh) -> Table:
    """The same rows, with more room after them."""
    more = room - len(table.rows)
    rows = jnp.pad(table.rows, ((0, more), (0, 0)))
    bias = jnp.pad(table.bias, (0, more), constant_values=-jnp.inf)
    coarse = None if table.coarse is None else rows.astype(jnp.bfloat16)
    return lax.with_sharding_constraint(Table(rows, coarse, bias), NamedSharding(mesh, _SPLIT))


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _write(
    table: Table, numbers: jax.Array, rows: jax.Array, bias: jax.Array, *, mesh: Mesh
) -> Table:
    """The table with these rows in it; numbers beyond its room are those of no row."""

    def write(table: Table, numbers: jax.Array, rows: jax.Array, bias: jax.Array) -> Table:
        size = len(table.rows)
        own = numbers - lax.axis_index("data") * size
        own = jnp.where((own >= 0) & (own < size), own, size)
        new = Table(rows, None if table.coarse is None else rows.astype(jnp.bfloat16), bias)
        return jax.tree.map(lambda old, new: old.at[own].set(new, mode="drop"), table, new)

    whole = PartitionSpec()
    specs = (_SPLIT, whole, whole, whole)
    write = jax.shard_map(write, mesh=mesh, in_specs=specs, out_specs=_SPLIT)
    return write(table, numbers, rows, bias)


@functools.partial(jax.jit, static_argnames=("metric", "count", "groups", "approximate", "mesh"))
def _search(
    table: Table,
    queries: jax.Array,
    limits: jax.Array,
    *,
    metric: str,
    count: int,
    groups: int | None,
    approximate: bool,
    mesh: Mesh,
) -> Found:
    """`search.nearest` on each device, then the nearest of what they found."""

    def local(table: Table, queries: jax.Array, limits: jax.Array) -> Found:
        settings: dict[str, Any] = {"metric": metric, "count": count}
        if groups is None:
            found = search.nearest_of_all(table, queries, **settings)
        else:
            settings |= {"groups": groups, "approximate": approximate}
            found = search.nearest(table, queries, limits, **settings)
        numbers = found.numbers + lax.axis_index("data") * len(table.rows)
        gather = functools.partial(lax.all_gather, axis_name="data", axis=1, tiled=True)
        # Devices hold their rows in the order of numbers: what comes first has the lower one.
        scores, order = lax.top_k(gather(found.scores), count)
        numbers = jnp.take_along_axis(gather(numbers), order, 1)
        return Found(scores, numbers, gather(found.proven[:, None]).all(1))

    whole = PartitionSpec()
    run = jax.shard_map(
        local, mesh=mesh, in_specs=(_SPLIT, whole, whole), out_specs=whole, check_vma=False
    )
    return run(table, queries, limits)


@functools.partial(jax.jit, static_argnames=("metric", "mesh"))
def _all_scores(table: Table, queries: jax.Array, *, metric: str, mesh: Mesh) -> jax.Array:
    scores = jnp.matmul(queries, table.rows.T, precision="highest")
    if metric == "euclidean":
        squares = jnp.square(queries).sum(1, keepdims=True)
        scores = jnp.minimum(2 * (scores + table.bias) - squares, 0)
    scores = jnp.where(table.bias == -jnp.inf, -jnp.inf, scores)
    return lax.with_sharding_constraint(scores, meshes.replicated(mesh))
