"""Shards parameters over the axes of the mesh by regular expressions; the first match wins.

A rule is (expression over the parameter's path, layout). A layout is a list of words:
  `auto`       splits the largest dimension that divides over `fsdp` (small arrays stay whole);
  `replicate`  a whole copy on every device;
  otherwise    one word for each of the *last* dimensions (earlier ones, such as the layers of a
               scanned stack, stay whole): `fsdp`, `tensor`, or `.` for none. A dimension that
               the axis does not divide stays whole, and the table says so.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtag.distributed.mesh import batch_sharding
from jaxtag.errors import UsageError

Rule = tuple[str, str]

# Attention and MLP after Shoeybi et al. 2019 (Megatron-LM, section 3): the first matrix of a pair
# is split by columns, the second by rows, so that one all-reduce serves both.
TRANSFORMER: tuple[Rule, ...] = (
    (r"(qkv|key_value)/kernel$", "fsdp . tensor"),
    (r"(qkv|key_value|query|fc1)/bias$", "tensor"),
    (r"(query|fc1)/kernel$", "fsdp tensor"),
    (r"(out|fc2)/kernel$", "tensor fsdp"),
    (r"(token|output)_embed$", "tensor fsdp"),
    (r".*", "auto"),
)
HOST_MEMORY = "pinned_host"
_SMALL = 2**14  # elements; splitting less than this costs more than it saves


class ParamSharding(NamedTuple):
    """How one parameter is sharded.

    Attributes:
        path: Its path, joined with '/'.
        shape: Its global shape.
        spec: The mesh axis of each dimension.
        rule: The expression that matched.
        note: Why a dimension that the rule splits is whole; "" if none is.
    """

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    rule: str
    note: str


def paths(tree: Any) -> list[tuple[str, Any]]:
    """Returns [(path joined with '/', leaf)] in the order of jax.tree.leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [("/".join(map(_key, path)), leaf) for path, leaf in leaves]


def infer_sharding(params: Any, mesh: Mesh, rules: Iterable[Rule]) -> list[ParamSharding]:
    """Applies the rules to each leaf of `params` (arrays or ShapeDtypeStructs), in order.

    Raises:
        UsageError: A rule's layout is malformed, or no rule matches a parameter.
    """
    rules = tuple(rules)
    param_shardings = []
    for path, leaf in paths(params):
        rule = next((rule for rule in rules if re.search(rule[0], path)), None)
        if rule is None:
            raise UsageError(f"config.mesh.rules: no rule covers the parameter {path}")
        spec, note = _spec(rule, leaf.shape, mesh)
        param_shardings.append(ParamSharding(path, tuple(leaf.shape), spec, rule[0], note))
    return param_shardings


def shard_shapes(
    state: Any,
    param_shardings: list[ParamSharding],
    mesh: Mesh,
    *,
    over_data: Collection[str] = (),
    offload: Collection[str] = (),
) -> Any:
    """Returns a ShapeDtypeStruct with its sharding for each leaf of `state`.

    What mirrors a parameter (its path ends with the parameter's and its shape is the same: the
    parameter itself, its moments, its average) is sharded as the parameter is. Batch statistics
    with a row for each group of the batch lie with their groups. The rest is replicated.

    Args:
        state: A tree of arrays or shapes.
        param_shardings: Of its parameters.
        mesh: The mesh.
        over_data: Top-level names of `state` whose large arrays are split over `data` too.
        offload: Top-level names of `state` whose arrays lie in the host's memory.
    """
    specs = {(item.path, item.shape): item.spec for item in param_shardings}

    def find(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        for start in range(len(parts)):
            spec = specs.get(("/".join(parts[start:]), tuple(leaf.shape)))
            if spec is not None:
                return NamedSharding(mesh, spec)
        grouped = "batch_stats" in parts and len(leaf.shape) == 2
        if grouped and leaf.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0:
            return batch_sharding(mesh)
        return NamedSharding(mesh, PartitionSpec())

    def place(path: str, leaf: Any) -> NamedSharding:
        sharding, part = find(path, leaf), path.partition("/")[0]
        if part in over_data:
            sharding = split_over_data(sharding, leaf.shape)
        return sharding.with_memory_kind(HOST_MEMORY) if part in offload else sharding

    shapes = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place(path, leaf))
        for path, leaf in paths(state)
    ]
    return jax.tree.unflatten(jax.tree.structure(state), shapes)


def split_over_data(sharding: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
    """`sharding` of an array, with its largest divisible dimension split over `data` too.

    A dimension that no other axis splits is preferred. An array that is small, or that `data` does
    not divide, stays as it is.
    """
    mesh, spec = sharding.mesh, list(sharding.spec) + [None] * (len(shape) - len(sharding.spec))
    data = mesh.shape["data"]
    if data == 1 or int(np.prod(shape)) < _SMALL or "data" in jax.tree.leaves(spec):
        return sharding
    local = sharding.shard_shape(shape)
    divisible = [dim for dim, size in enumerate(local) if size % data == 0]
    if not divisible:
        return sharding
    dim = max(divisible, key=lambda dim: (spec[dim] is None, local[dim]))
    spec[dim] = "data" if spec[dim] is None else (spec[dim], "data")
    return NamedSharding(mesh, PartitionSpec(*spec))


def to_device(tree: Any, shardings: Any) -> Any:
    """`tree` with the arrays that `shardings` keep in the host's memory copied to their devices."""

    def copy(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.memory_kind != HOST_MEMORY:
            return leaf
        return jax.device_put(leaf, sharding.with_memory_kind("device"))

    return jax.tree.map(copy, tree, shardings)


def table(param_shardings: list[ParamSharding], mesh: Mesh) -> str:
    """A readable table: parameter, shape, layout, share of it on one device."""
    rows = [("parameter", "shape", "layout", "on a device", "")]
    for item in param_shardings:
        shards = int(np.prod([mesh.shape[axis] for axis in _axes(item.spec)] or [1]))
        share = f"1/{shards}" if shards > 1 else "whole"
        layout = ", ".join("." if dim is None else str(dim) for dim in item.spec) or "replicated"
        rows.append((item.path, "x".join(map(str, item.shape)), layout, share, item.note))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[4]]).rstrip())
    return "\n".join(lines)


def _key(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _axes(spec: PartitionSpec) -> list[str]:
    return [axis for axis in spec if axis is not None]


def _spec(rule: Rule, shape: tuple[int, ...], mesh: Mesh) -> tuple[PartitionSpec, str]:
    """(spec, note) of an array of `shape` by a rule."""
    expression, layout = rule
    if layout == "replicate":
        return PartitionSpec(), ""
    if layout == "auto":
        return _auto(shape, mesh)
    axes = layout.split()
    unknown = [axis for axis in axes if axis not in (".", *mesh.axis_names)]
    if unknown:
        raise UsageError(
            f"config.mesh.rules: {expression!r} has the unknown layout word {unknown[0]!r}; "
            f"there are: auto, replicate, {', '.join(mesh.axis_names)}, ."
        )
    if len(axes) > len(shape):
        raise UsageError(
            f"config.mesh.rules: {expression!r} lays out {len(axes)} dimensions, "
            f"the parameter has {len(shape)}"
        )
    spec: list[str | None] = [None] * (len(shape) - len(axes))
    notes = []
    for size, axis in zip(shape[len(spec) :], axes, strict=True):
        if axis == "." or mesh.shape[axis] == 1:
            spec.append(None)
        elif size % mesh.shape[axis]:
            spec.append(None)
            notes.append(f"{size} is no multiple of {axis}={mesh.shape[axis]}")
        else:
            spec.append(axis)
    return PartitionSpec(*spec), "; ".join(notes)


def _auto(shape: tuple[int, ...], mesh: Mesh) -> tuple[PartitionSpec, str]:
    shards = mesh.shape["fsdp"]
    if shards == 1 or int(np.prod(shape)) < _SMALL:
        return PartitionSpec(), ""
    divisible = [dim for dim, size in enumerate(shape) if size % shards == 0]
    if not divisible:
        return PartitionSpec(), f"no dimension is a multiple of fsdp={shards}"
    largest = max(divisible, key=lambda dim: shape[dim])
    return PartitionSpec(*("fsdp" if dim == largest else None for dim in range(len(shape)))), ""
