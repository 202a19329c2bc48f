"""Declarative tables of names, and how tensors move through them, in both directions.

A table says for each of our variables (`params/stem/kernel`, `batch_stats/stem_norm/mean`) how
their layout becomes ours, and under which names they keep it:

    {"params/stem/kernel": ("conv", "conv1.weight"),
     "params/block_0/qkv/kernel": ("linear", "q.weight", "k.weight", "v.weight")}

Several of theirs: ours is a stack of them, before the last dimension. Layouts only move elements,
so that a round trip is bit for bit.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Table = dict[str, tuple[str, ...]]  # ours -> (layout, *theirs)
Tensors = Mapping[str, np.ndarray]

# Torch's convolution is [out, in, h, w], its Linear [out, in]; "first" has a leading dimension of
# one; "parts:n" keeps n parts of a projection side by side in the last dimension (GPT-2's).
_TO_OURS = {
    "": lambda a: a,
    "conv": lambda a: a.transpose(2, 3, 1, 0),
    "linear": lambda a: a.T,
    "first": lambda a: a[0],
}
_TO_THEIRS = {
    "": lambda a: a,
    "conv": lambda a: a.transpose(3, 2, 0, 1),
    "linear": lambda a: a.T,
    "first": lambda a: a[None],
}


def conv(ours: str, theirs: str, bias: bool = False) -> Table:
    """A convolution: kernel, and bias if it has one."""
    table: Table = {f"params/{ours}/kernel": ("conv", f"{theirs}.weight")}
    return table | ({f"params/{ours}/bias": ("", f"{theirs}.bias")} if bias else {})


def linear(ours: str, theirs: str) -> Table:
    """A linear layer with bias."""
    return {
        f"params/{ours}/kernel": ("linear", f"{theirs}.weight"),
        f"params/{ours}/bias": ("", f"{theirs}.bias"),
    }


def layer_norm(ours: str, theirs: str) -> Table:
    """A layer norm."""
    return {
        f"params/{ours}/scale": ("", f"{theirs}.weight"),
        f"params/{ours}/bias": ("", f"{theirs}.bias"),
    }


def batch_norm(ours: str, theirs: str) -> Table:
    """A batch norm with its running moments."""
    return layer_norm(ours, theirs) | {
        f"batch_stats/{ours}/mean": ("", f"{theirs}.running_mean"),
        f"batch_stats/{ours}/var": ("", f"{theirs}.running_var"),
    }


def join(tables: Iterable[Table]) -> Table:
    """All entries of `tables` as one."""
    joined: Table = {}
    for table in tables:
        joined |= table
    return joined


def read(tensors: Tensors, table: Table) -> dict[str, Any]:
    """The nested variables that `table` names. Raises KeyError naming a missing tensor."""
    tree: dict[str, Any] = {}
    for path, (layout, *theirs) in table.items():
        parts = [_laid_out(np.asarray(tensors[name]), layout) for name in theirs]
        array = parts[0] if len(parts) == 1 else np.stack(parts, axis=-2)
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    return tree


def write(variables: Mapping[str, Any], table: Table) -> dict[str, np.ndarray]:
    """What `read` reads: their tensors from our variables."""
    tensors = {}
    for path, (layout, *theirs) in table.items():
        node: Any = variables
        for folder in path.split("/"):
            node = node[folder]
        array = np.asarray(node)
        stacked = len(theirs) > 1
        parts = [np.take(array, i, axis=-2) for i in range(len(theirs))] if stacked else [array]
        for name, part in zip(theirs, parts, strict=True):
            if layout.startswith("parts:"):
                part = part.reshape(*part.shape[:-2], -1)
            else:
                part = _TO_THEIRS[layout](part)
            tensors[name] = np.ascontiguousarray(part)
    return tensors


def _laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    if layout.startswith("parts:"):
        return array.reshape(*array.shape[:-1], int(layout.removeprefix("parts:")), -1)
    return _TO_OURS[layout](array)
