"""Declarative tables of names, and how tensors move through them, in both directions.

A table says for each of our variables (`params/stem/kernel`, `batch_stats/stem_norm/mean`) how
their layout becomes ours, and under which names they keep it:

    {"params/stem/kernel": ("conv", "conv1.weight"),
     "params/block_0/qkv/kernel": ("linear", "q.weight", "k.weight", "v.weight"),
     "params/block_0/qkv/kernel": ("linear parts:3", "qkv.weight")}

Several of theirs: ours is a stack of them, before the last dimension. A layout is a sequence of
words, each a move of elements that can be undone, so that a round trip is bit for bit:

- `conv`: torch's kernel [out, in, h, w] is [h, w, in, out] here;
- `linear`: torch's [out, in] is [in, out] here;
- `pointwise`: torch's 1x1 kernel [out, in, 1, 1] is a linear layer's [in, out] here;
- `first`: theirs has a leading dimension of one;
- `parts:n`: theirs has n parts side by side in the last dimension, [..., n * d]; [..., n, d] here;
- `flat:h,w`: theirs, [out, c * h * w], reads a picture flattened as [c, h, w]; ours reads it
  flattened as [h, w, c], [h * w * c, out];
- `layers:n`, the first word: ours is a stack of n layers, each with an equal share of the names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Table = dict[str, tuple[str, ...]]  # ours -> (layout, *theirs)
Tensors = Mapping[str, np.ndarray]


def conv(target: str, source: str, bias: bool = False) -> Table:
    """A convolution: kernel, and bias if it has one."""
    table: Table = {f"params/{target}/kernel": ("conv", f"{source}.weight")}
    return table | ({f"params/{target}/bias": ("", f"{source}.bias")} if bias else {})


def linear(target: str, *source: str) -> Table:
    """A linear layer with bias; ours a stack of theirs where there are several."""
    return {
        f"params/{target}/kernel": ("linear", *(f"{name}.weight" for name in source)),
        f"params/{target}/bias": ("", *(f"{name}.bias" for name in source)),
    }


def layer_norm(target: str, source: str) -> Table:
    """A layer norm."""
    return {
        f"params/{target}/scale": ("", f"{source}.weight"),
        f"params/{target}/bias": ("", f"{source}.bias"),
    }


def batch_norm(target: str, source: str) -> Table:
    """A batch norm with its running moments."""
    return layer_norm(target, source) | {
        f"batch_stats/{target}/mean": ("", f"{source}.running_mean"),
        f"batch_stats/{target}/var": ("", f"{source}.running_var"),
    }


def join(tables: Iterable[Table]) -> Table:
    """All entries of `tables` as one."""
    joined: Table = {}
    for table in tables:
        joined |= table
    return joined


def layers(
    block: Callable[[str, str], Table], depth: int, scan: bool, target: str, source: str
) -> Table:
    """`block(ours, theirs)` for each of `depth` layers, as `models.layers.stack` names them.

    Ours are `block_0`, `block_1` … in the folder `target`, or stacked in `blocks` there (scan);
    `{}` in `source` is the number of the layer.
    """
    tables = [block(f"{target}block_{i}", source.format(i)) for i in range(depth)]
    if not scan:
        return join(tables)
    stacked: Table = {}
    for entries in zip(*(table.items() for table in tables), strict=True):
        path, (layout, *_) = entries[0]
        names = [name for _, (_, *parts) in entries for name in parts]
        path = path.replace(f"/{target}block_0/", f"/{target}blocks/")
        stacked[path] = (f"layers:{depth} {layout}", *names)
    return stacked


def own(paths: Mapping[str, tuple[int, ...]]) -> Table:
    """The table of our own files: path -> shape of all variables, one layer after the other.

    A model may keep its layers stacked (`blocks`) or not: the file is the same.
    """
    table: Table = {}
    for path, shape in paths.items():
        before, stacked, after = path.partition("/blocks/")
        if stacked:
            names = [f"{before}/block_{i}/{after}" for i in range(shape[0])]
            table[path] = (f"layers:{shape[0]}", *names)
        else:
            table[path] = ("", path)
    return table


def source(table: Table) -> list[str]:
    """All of their names."""
    return [name for _, *names in table.values() for name in names]


def read(tensors: Tensors, table: Table) -> dict[str, Any]:
    """The nested variables that `table` names. Raises KeyError naming a missing tensor."""
    return unflatten_dict({path: target(tensors, entry) for path, entry in table.items()}, sep="/")


def target(tensors: Tensors, entry: tuple[str, ...]) -> np.ndarray:
    """The one variable of ours that `entry` of a table describes."""
    layout, *names = entry
    return _joined([np.asarray(tensors[name]) for name in names], layout.split())


def write(variables: Mapping[str, Any], table: Table) -> dict[str, np.ndarray]:
    """What `read` reads: their tensors from our variables."""
    flat = flatten_dict(variables, sep="/")
    tensors = {}
    for path, entry in table.items():
        parts = _parted(np.asarray(flat[path]), entry)
        tensors |= {name: np.ascontiguousarray(part) for name, part in parts}
    return tensors


def source_shapes(shape: tuple[int, ...], entry: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of their tensors for a variable of ours of `shape`."""
    array = np.broadcast_to(np.float32(0), shape)  # takes no memory
    return {name: part.shape for name, part in _parted(array, entry)}


def _joined(arrays: list[np.ndarray], words: list[str]) -> np.ndarray:
    """Ours from theirs."""
    if words and words[0].startswith("layers:"):
        share = len(arrays) // int(words[0].removeprefix("layers:"))
        groups = [arrays[i : i + share] for i in range(0, len(arrays), share)]
        return np.stack([_joined(group, words[1:]) for group in groups])
    moved = []
    for array in arrays:
        for word in words:
            array = _to_ours(array, word)
        moved.append(array)
    return moved[0] if len(moved) == 1 else np.stack(moved, axis=-2)


def _parted(array: np.ndarray, entry: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, their tensor), the reverse of `_joined`."""
    layout, *names = entry
    first, _, rest = layout.partition(" ")
    if first.startswith("layers:"):
        share = len(names) // len(array)
        for i, layer in enumerate(array):
            yield from _parted(layer, (rest, *names[i * share : (i + 1) * share]))
        return
    parts = [array[..., i, :] for i in range(len(names))] if len(names) > 1 else [array]
    for name, part in zip(names, parts, strict=True):
        for word in reversed(layout.split()):
            part = _to_theirs(part, word)
        yield name, part


def _to_ours(array: np.ndarray, word: str) -> np.ndarray:
    kind, _, numbers = word.partition(":")
    if kind == "conv":
        return array.transpose(2, 3, 1, 0)
    if kind == "linear":
        return array.T
    if kind == "pointwise":
        return array.squeeze((2, 3)).T
    if kind == "first":
        return array[0]
    if kind == "parts":
        return array.reshape(*array.shape[:-1], int(numbers), -1)
    if kind == "flat":
        h, w = map(int, numbers.split(","))
        return array.reshape(len(array), -1, h, w).transpose(2, 3, 1, 0).reshape(-1, len(array))
    raise ValueError(f"no layout is called {word!r}")


def _to_theirs(array: np.ndarray, word: str) -> np.ndarray:
    kind, _, numbers = word.partition(":")
    if kind == "conv":
        return array.transpose(3, 2, 0, 1)
    if kind == "linear":
        return array.T
    if kind == "pointwise":
        return array.T[..., None, None]
    if kind == "first":
        return array[None]
    if kind == "parts":
        return array.reshape(*array.shape[:-2], -1)
    if kind == "flat":
        h, w = map(int, numbers.split(","))
        out = array.shape[-1]
        return array.reshape(h, w, -1, out).transpose(3, 2, 0, 1).reshape(out, -1)
    raise ValueError(f"no layout is called {word!r}")
