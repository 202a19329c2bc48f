"""Reads and writes safetensors, and JSON beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxtag.errors import UserError
from jaxtag.storage import atomic_file, json_files
from jaxtag.storage.paths import make_path

SINGLE = "model.safetensors"
# Of numpy -> of the file, in the order of the library, which writes the last first.
_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class SafetensorsFile:
    """The tensors of a file, by their names.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path: Path):
        try:
            self._file: Any = safe_open(path, "np")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is no whole safetensors file: {error}") from error
        self.metadata: dict[str, str] = self._file.metadata() or {}

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """NumPy's name of a tensor's numbers, such as "bfloat16"; the file's for integers."""
        dtype: str = self._file.get_slice(name).get_dtype()
        return _DTYPES.get(dtype, dtype)

    def read(self, name: str) -> np.ndarray:
        """A tensor, as it is stored."""
        tensor: np.ndarray = self._file.get_tensor(name)
        return tensor


def is_finite(array: np.ndarray) -> bool:
    """Whether no number of a float32 array is NaN or infinite; takes no memory."""
    return bool(np.isfinite(np.add.reduce(array, axis=None, dtype=np.float64)))


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a file atomically, readable as the umask says. Raises UserError where it cannot.

    The library's own writer has a temporary file of its own, which a full disk leaves behind, and
    does not say what kind of error it met. The bytes are those that it writes.
    """
    ordered = sorted(tensors, key=lambda name: (-_rank(tensors[name]), name))
    with atomic_file.replacing(path) as partial, partial.open("wb") as file:
        file.write(_header({name: tensors[name] for name in ordered}, metadata))
        for name in ordered:
            file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)


def _header(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The length of the table of tensors, and the table, in the order of their bytes."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, array in tensors.items():
        table[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _rank(array: np.ndarray) -> int:
    return list(_NAMES).index(array.dtype.name)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; empty where there is no file. Raises UserError where it is damaged."""
    if not path.is_file():
        return {}
    values = json_files.read(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it must hold a JSON object")
    return values


def folder_of(path: str | Path) -> Path:
    """The folder of the files that accompany the weights."""
    path = make_path(path)
    return path if path.is_dir() else path.parent
