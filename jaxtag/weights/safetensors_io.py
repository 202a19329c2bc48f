"""Reads and writes safetensors: one file, or a folder with one or several. Pickles are refused."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxtag.errors import UserError
from jaxtag.storage import atomic_file

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_FLOATS = ("F64", "F32", "F16", "BF16")


class Tensors(Mapping[str, np.ndarray]):
    """Mapping from names to float32 tensors; each is read on access.

    Args:
        path: a safetensors file, the index of several (`model.safetensors.index.json`), or a folder
            that holds either.

    Attributes:
        path: as given.
        metadata: strings that the file holds beside its tensors.

    Raises:
        UserError: there is no such file, it is damaged, or it is a pickle.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        self._files: dict[str, Any] = {}
        for path in _files(self.path):
            file = _open(path)
            self.metadata |= file.metadata() or {}
            self._files |= dict.fromkeys(file.keys(), file)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def __getitem__(self, name: str) -> np.ndarray:
        dtype = self._files[name].get_slice(name).get_dtype()
        if dtype not in _FLOATS:
            raise UserError(f"{self.path}: {name} holds {dtype}; weights are {', '.join(_FLOATS)}")
        return self._files[name].get_tensor(name).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a file atomically. Raises UserError where it cannot."""
    try:
        with atomic_file.replacing(path) as partial:
            save_file(dict(tensors), partial, dict(metadata))
    except SafetensorError as error:
        raise UserError(f"{path} cannot be written: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; empty where there is no file. Raises UserError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it must hold a JSON object")
    return values


def folder_of(path: str | Path) -> Path:
    """The folder of the files that accompany the weights."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _files(path: Path) -> list[Path]:
    """The safetensors files that `path` stands for."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return _shards(path) if path.name.endswith(".index.json") else [path]
    if (path / SINGLE).exists():
        return [path / SINGLE]
    if (path / INDEX).exists():
        return _shards(path / INDEX)
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files
    if files:
        names = ", ".join(file.name for file in files[:5])
        raise UserError(f"{path} holds several files ({names}): name the one to read")
    pickles = sorted(file for file in path.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise _pickle_error(pickles[0])
    raise UserError(f"{path} holds no weights: there is neither {SINGLE} nor {INDEX}")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of them in its folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise UserError(f"{index} is damaged: it has no weight_map")
    shards = [index.parent / name for name in sorted(set(names.values()))]
    for shard in shards:
        if shard.parent != index.parent or ".." in shard.parts[-1:]:
            raise UserError(f"{index} names {shard}, which is not beside it")
        if not shard.is_file():
            raise UserError(f"{shard} is missing, though {index.name} names it")
    return shards


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if _is_pickle(path, start):
            raise _pickle_error(path)
        return safe_open(path, "np")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no whole safetensors file: {error}") from error


def _is_pickle(path: Path, start: bytes) -> bool:
    """Detects a zip archive (torch since 1.6), or a pickle's first opcode without a header."""
    has_opcode = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    has_header = start[8:9] == b"{"
    is_archive = start.startswith(b"PK\x03\x04")
    return is_archive or (has_opcode and not has_header) or path.suffix in _PICKLES


def _pickle_error(path: Path) -> UserError:
    return UserError(
        f"{path} is a pickle, which can run any program when it is loaded: jaxtag reads "
        "safetensors only. Convert it where you trust it, with torch and safetensors installed:\n"
        "  import torch; from safetensors.torch import save_file\n"
        f'  state = torch.load("{path.name}", map_location="cpu", weights_only=True)\n'
        '  save_file({k: v.clone().contiguous() for k, v in state.items()}, "model.safetensors")'
    )
