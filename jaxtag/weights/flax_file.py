"""Tensors of Flax's files (`flax_model.msgpack` of transformers), under PyTorch's names.

transformers 4 kept each Flax model's weights under the names of its PyTorch twin, but for the last
part (`kernel`, `scale`, `embedding`, a batch norm's `mean` and `var`) and the order of the axes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict

from jaxtag.errors import UserError

_LAST = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_COLLECTIONS = ("params", "batch_stats")


class FlaxFile:
    """The tensors of a msgpack file, by their names in PyTorch.

    Raises:
        UserError: the file is damaged, or holds something other than arrays in dictionaries.
    """

    metadata: dict[str, str] = {}  # noqa: RUF012  (as of safetensors: these files have none)

    def __init__(self, path: Path):
        try:
            content = serialization.msgpack_restore(path.read_bytes())
        except Exception as error:  # damaged data raise many kinds
            raise UserError(f"{path} is a damaged msgpack file: {error}") from error
        self._tensors = _to_torch(_merge_collections(path, content))

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """NumPy's name of a tensor's numbers, such as "bfloat16"."""
        return self._tensors[name].dtype.name

    def read(self, name: str) -> np.ndarray:
        """A tensor, as it is stored."""
        return self._tensors[name]


def _merge_collections(path: Path, content: Any) -> dict[str, np.ndarray]:
    """The arrays of all collections by their names without the collection's."""
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} in place of arrays by name")
    trees = [content[name] for name in _COLLECTIONS if isinstance(content.get(name), Mapping)]
    arrays: dict[str, np.ndarray] = {}
    for tree in trees or [content]:
        arrays |= flatten_dict(tree, sep="/")
    if odd := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise UserError(f"{path}: {odd[0]} is no array")
    return arrays


def _to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    tensors = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        if last == "kernel" and array.ndim == 4:  # [h, w, in, out]
            array = array.transpose(3, 2, 0, 1)
        elif last == "kernel":  # [in, out]
            array = array.T
        tensors[".".join([*parents, _LAST.get(last, last)])] = array
    return tensors
