"""Reads and writes safetensors, and JSON beside them."""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxtag.errors import UserError
from jaxtag.storage import atomic_file, json_files
from jaxtag.storage.paths import make_path

SINGLE = "model.safetensors"
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
    """Writes a file atomically, readable as the umask says. Raises UserError where it cannot."""
    try:
        with atomic_file.replacing(path) as partial:
            partial.touch()
            mode = stat.S_IMODE(partial.stat().st_mode)
            save_file(dict(tensors), partial, dict(metadata))  # as its owner's alone, since 0.8.0
            partial.chmod(mode)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be written: {error}") from error


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
