"""Reads and writes safetensors: one file, or a folder with one or several. Pickles are refused."""

import copy
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxtag.errors import UserError
from jaxtag.storage import atomic_file, json_files, transfer
from jaxtag.storage.paths import is_store, make_path

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Other formats in which weights are published: suffix -> what it is.
_FORMATS = {
    ".npz": "an .npz archive, arrays of NumPy",
    ".npy": "an .npy file, one array of NumPy",
    ".h5": "an HDF5 file (Keras)",
    ".hdf5": "an HDF5 file (Keras)",
    ".keras": "an archive of Keras",
    ".msgpack": "a msgpack file (Flax)",
    ".onnx": "a program of ONNX",
    ".gguf": "a GGUF file",
    ".tflite": "a program of TensorFlow Lite",
}
_MAGIC = {b"\x93NUMPY": ".npy", b"\x89HDF\r\n": ".h5", b"GGUF": ".gguf"}
_FLOATS = ("F64", "F32", "F16", "BF16")


class Tensors(Mapping[str, np.ndarray]):
    """Mapping from names to float32 tensors; each is read on access.

    Args:
        path: a safetensors file, the index of several (`model.safetensors.index.json`), or a folder
            that holds either.

    Attributes:
        path: as given.
        metadata: strings that the file holds beside its tensors.
        unprefixed: names that lacked the prefix which `without_prefix` took off the others.

    Raises:
        UserError: there is no such file, it is damaged, or it is of another format.
    """

    def __init__(self, path: str | Path):
        self.path = make_path(path)
        self.metadata: dict[str, str] = {}
        self.unprefixed: frozenset[str] = frozenset()
        self._files: dict[str, tuple[Any, str]] = {}  # name -> (file, the tensor's name in it)
        for path in _files(self.path):
            file = _open(path)
            self.metadata |= file.metadata() or {}
            self._files |= {name: (file, name) for name in file.keys()}  # noqa: SIM118

    def without_prefix(self, prefix: str) -> "Tensors":
        """The same tensors under names without `prefix`; one that lacks it keeps its name."""
        renamed = copy.copy(self)
        renamed.unprefixed = frozenset(n for n in self._files if not n.startswith(prefix))
        renamed._files = {name.removeprefix(prefix): where for name, where in self._files.items()}
        return renamed

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        file, stored_name = self._files[name]
        return tuple(file.get_slice(stored_name).get_shape())

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored_name = self._files[name]
        dtype = file.get_slice(stored_name).get_dtype()
        if dtype not in _FLOATS:
            raise UserError(f"{self.path}: {name} holds {dtype}; weights are {', '.join(_FLOATS)}")
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite: see is_finite
            return file.get_tensor(stored_name).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


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
    others = sorted(file for file in path.iterdir() if file.suffix in {*_PICKLES, *_FORMATS})
    for file in others:  # pickles first: nearly every folder on the Hub has one
        if file.suffix in _PICKLES:
            raise _pickle_error(file)
    if others:
        raise _format_error(others[0], others[0].suffix)
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
            start = file.read(512)
        if error := _wrong_format(path, start):
            raise error
        if not is_store(path):
            return safe_open(path, "np")
        with tempfile.TemporaryDirectory(prefix="jaxtag-") as folder:
            local = Path(folder) / path.name
            transfer.download(path, local)
            return safe_open(local, "np")  # mapped: it can be read after its name is gone
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no whole safetensors file: {error}") from error


def _wrong_format(path: Path, start: bytes) -> UserError | None:
    """What to say of a file of another format, by its first bytes and its name; None if it fits."""
    if json_files.is_lfs_pointer(start):
        return json_files.lfs_pointer_error(path)
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return UserError(
            f"{path} is no whole safetensors file: it is a web page, as a download that failed "
            "leaves it"
        )
    has_header = start[8:9] == b"{"
    if path.suffix in _FORMATS and not has_header:
        return _format_error(path, path.suffix)
    is_zip = start.startswith(b"PK\x03\x04")
    if is_zip and _holds_arrays(path):
        return _format_error(path, ".npz")
    # A zip archive is torch's since 1.6; before, a pickle's first opcode without a header.
    has_opcode = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if is_zip or (has_opcode and not has_header):
        return _pickle_error(path)
    for magic, suffix in _MAGIC.items():
        if start.startswith(magic):
            return _format_error(path, suffix)
    return _pickle_error(path) if path.suffix in _PICKLES else None


def _holds_arrays(path: Path) -> bool:
    """Whether a zip archive is one of NumPy's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _format_error(path: Path, suffix: str) -> UserError:
    arrays = f'dict(np.load("{path.name}"))' if suffix == ".npz" else "arrays_by_name"
    return UserError(
        f"{path} is {_FORMATS[suffix]}: jaxtag reads safetensors only. Convert it with\n"
        "  from safetensors.numpy import save_file\n"
        f'  save_file({arrays}, "model.safetensors")'
    )


def _pickle_error(path: Path) -> UserError:
    return UserError(
        f"{path} is a pickle, which can run any program when it is loaded: jaxtag reads "
        "safetensors only. Convert it where you trust it, with torch and safetensors installed:\n"
        "  import torch; from safetensors.torch import save_file\n"
        f'  state = torch.load("{path.name}", map_location="cpu", weights_only=True)\n'
        '  save_file({k: v.clone().contiguous() for k, v in state.items()}, "model.safetensors")'
    )
