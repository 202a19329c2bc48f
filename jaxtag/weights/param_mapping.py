"""Declarative tables of parameter names, and how tensors move through them, in both directions.

A table maps each variable of a model here (the target: `params/stem/kernel`,
`batch_stats/stem_norm/mean`) to how it is laid out in a file of another library (the source), and
to the names that it has there:

    {"params/stem/kernel": ("conv", "conv1.weight"),
     "params/block_0/qkv/kernel": ("linear", "q.weight", "k.weight", "v.weight"),
     "params/block_0/qkv/kernel": ("linear parts:3", "qkv.weight")}

Where there are several source tensors, the target is a stack of them, before the last dimension. A
layout is a sequence of operations, each a permutation of elements that can be undone, so that a
round trip is exact bit by bit:

- `conv`: a torch kernel [out, in, h, w] becomes [h, w, in, out];
- `linear`: a torch matrix [out, in] becomes [in, out];
- `pointwise`: a torch 1x1 kernel [out, in, 1, 1] becomes a linear layer's [in, out];
- `first`: drops a leading dimension of one; `row` adds one;
- `parts:n`: n parts side by side in the last dimension, [..., n * d], become [..., n, d];
- `flat:h,w`: a matrix [out, c * h * w] that reads an image flattened as [c, h, w] becomes one that
  reads it flattened as [h, w, c], [h * w * c, out];
- `joined:1,2`, only as the first: the source tensors are parts of one, in these shares of its first
  dimension;
- `layers:n`, only as the first: the target is a stack of n layers, each with an equal share of the
  source names.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Entry = tuple[str, ...]  # (layout, *source names)
Table = dict[str, Entry]  # from target path
Shape = tuple[int, ...]


def conv(target: str, source: str, bias: bool = False) -> Table:
    """Maps a convolution: kernel, and bias if it has one."""
    table: Table = {f"params/{target}/kernel": ("conv", f"{source}.weight")}
    return table | ({f"params/{target}/bias": ("", f"{source}.bias")} if bias else {})


def linear(target: str, *source: str) -> Table:
    """Maps a linear layer with bias; the target is a stack where there are several sources."""
    return {
        f"params/{target}/kernel": ("linear", *(f"{name}.weight" for name in source)),
        f"params/{target}/bias": ("", *(f"{name}.bias" for name in source)),
    }


def head(num_classes: int, source: str) -> Table:
    """Maps the linear classifier `head`; empty for a model without classes."""
    return linear("head", source) if num_classes else {}


def layer_norm(target: str, source: str) -> Table:
    """Maps a layer norm."""
    return {
        f"params/{target}/scale": ("", f"{source}.weight"),
        f"params/{target}/bias": ("", f"{source}.bias"),
    }


def batch_norm(target: str, source: str) -> Table:
    """Maps a batch norm with its running statistics."""
    return layer_norm(target, source) | {
        f"batch_stats/{target}/mean": ("", f"{source}.running_mean"),
        f"batch_stats/{target}/var": ("", f"{source}.running_var"),
    }


def join(tables: Iterable[Table]) -> Table:
    """Joins tables into one."""
    joined: Table = {}
    for table in tables:
        joined |= table
    return joined


def renamed(table: Table, names: Mapping[str, str]) -> Table:
    """The table of a library that calls some parts of the source's names otherwise.

    Args:
        names: a part of a name, at dots -> what it is called there.
    """
    pattern = re.compile(rf"(?:(?<=\.)|^)(?:{'|'.join(map(re.escape, names))})(?=\.|$)")

    def rename(name: str) -> str:
        return pattern.sub(lambda match: names[match[0]], name)

    return {path: (layout, *map(rename, rest)) for path, (layout, *rest) in table.items()}


def layers(
    block: Callable[[str, str], Table], depth: int, scan: bool, target: str, source: str
) -> Table:
    """Maps a stack of layers as `kernels.layers.layer_stack` names them.

    Args:
        block: returns the table of one layer from its target and source prefixes.
        depth: number of layers.
        scan: the target keeps them stacked in `blocks`, not as `block_0`, `block_1` ….
        target: prefix of the target's layers.
        source: prefix of a source layer, with `{}` in place of its index.
    """
    tables = [block(f"{target}block_{i}", source.format(i)) for i in range(depth)]
    if not scan:
        return join(tables)
    stacked: Table = {}
    for items in zip(*(table.items() for table in tables), strict=True):
        path, (layout, *_) = items[0]
        names = [name for _, (_, *names) in items for name in names]
        path = path.replace(f"/{target}block_0/", f"/{target}blocks/")
        stacked[path] = (f"layers:{depth} {layout}", *names)
    return stacked


def native_table(shapes: Mapping[str, Shape]) -> Table:
    """The table of jaxtag's own files, from the shapes of all variables by path.

    A model may keep its layers stacked (`blocks`) or not: the file is the same.
    """
    table: Table = {}
    for path, shape in shapes.items():
        before, stacked, after = path.partition("/blocks/")
        if stacked:
            names = [f"{before}/block_{i}/{after}" for i in range(shape[0])]
            table[path] = (f"layers:{shape[0]}", *names)
        else:
            table[path] = ("", path)
    return table


def source_names(table: Table) -> list[str]:
    """All names in the source."""
    return [name for _, *names in table.values() for name in names]


def source_shapes(shape: Shape, entry: Entry) -> dict[str, Shape]:
    """The shapes of the source tensors of a target variable of `shape`, by name."""
    array = np.broadcast_to(np.float32(0), shape)  # takes no memory
    return {name: part.shape for name, part in _split(array, entry)}


def to_variables(tensors: Mapping[str, np.ndarray], table: Table) -> dict[str, Any]:
    """Converts source tensors to nested variables. Raises KeyError naming a missing tensor."""
    arrays = {path: to_variable(tensors, entry) for path, entry in table.items()}
    return unflatten_dict(arrays, sep="/")


def to_variable(tensors: Mapping[str, np.ndarray], entry: Entry) -> np.ndarray:
    """Converts the source tensors of one entry of a table to the target variable."""
    layout, *names = entry
    return _merge([np.asarray(tensors[name]) for name in names], layout.split())


def to_tensors(variables: Mapping[str, Any], table: Table) -> dict[str, np.ndarray]:
    """Converts nested variables to source tensors: the inverse of `to_variables`."""
    flat = flatten_dict(variables, sep="/")
    tensors: dict[str, np.ndarray] = {}
    for path, entry in table.items():
        parts = _split(np.asarray(flat[path]), entry)
        tensors |= {name: np.asarray(part, order="C") for name, part in parts}
    return tensors


def _merge(arrays: list[np.ndarray], operations: list[str]) -> np.ndarray:
    """The target array of source arrays."""
    if operations and operations[0].startswith("layers:"):
        share = len(arrays) // int(operations[0].removeprefix("layers:"))
        groups = [arrays[i : i + share] for i in range(0, len(arrays), share)]
        return np.stack([_merge(group, operations[1:]) for group in groups])
    if operations and operations[0].startswith("joined:"):
        return _merge([np.concatenate(arrays)], operations[1:])
    parts = []
    for array in arrays:
        for operation in operations:
            array = _apply(array, operation)
        parts.append(array)
    return parts[0] if len(parts) == 1 else np.stack(parts, axis=-2)


def _split(array: np.ndarray, entry: Entry) -> Iterator[tuple[str, np.ndarray]]:
    """(source name, source array) of a target array: the inverse of `_merge`."""
    layout, *names = entry
    first, _, rest = layout.partition(" ")
    if first.startswith("layers:"):
        share = len(names) // len(array)
        for i, layer in enumerate(array):
            yield from _split(layer, (rest, *names[i * share : (i + 1) * share]))
        return
    if first.startswith("joined:"):
        shares = np.cumsum([int(share) for share in first.removeprefix("joined:").split(",")])
        [(_, whole)] = _split(array, (rest, names[0]))
        cuts = shares[:-1] * len(whole) // shares[-1]
        yield from zip(names, np.split(whole, cuts), strict=True)
        return
    parts = [array[..., i, :] for i in range(len(names))] if len(names) > 1 else [array]
    for name, part in zip(names, parts, strict=True):
        for operation in reversed(layout.split()):
            part = _undo(part, operation)
        yield name, part


def _apply(array: np.ndarray, operation: str) -> np.ndarray:
    """Applies an operation of a layout, from source to target."""
    kind, _, numbers = operation.partition(":")
    if kind == "conv":
        return array.transpose(2, 3, 1, 0)
    if kind == "linear":
        return array.T
    if kind == "pointwise":
        return array.squeeze((2, 3)).T
    if kind == "first":
        return array[0]
    if kind == "row":
        return array[None]
    if kind == "parts":
        return array.reshape(*array.shape[:-1], int(numbers), -1)
    if kind == "flat":
        h, w = map(int, numbers.split(","))
        return array.reshape(len(array), -1, h, w).transpose(2, 3, 1, 0).reshape(-1, len(array))
    raise ValueError(f"no layout is called {operation!r}")


def _undo(array: np.ndarray, operation: str) -> np.ndarray:
    """Undoes an operation of a layout, from target to source."""
    kind, _, numbers = operation.partition(":")
    if kind == "conv":
        return array.transpose(3, 2, 0, 1)
    if kind == "linear":
        return array.T
    if kind == "pointwise":
        return array.T[..., None, None]
    if kind == "first":
        return array[None]
    if kind == "row":
        return array[0]
    if kind == "parts":
        return array.reshape(*array.shape[:-2], -1)
    if kind == "flat":
        h, w = map(int, numbers.split(","))
        out = array.shape[-1]
        return array.reshape(h, w, -1, out).transpose(3, 2, 0, 1).reshape(out, -1)
    raise ValueError(f"no layout is called {operation!r}")
