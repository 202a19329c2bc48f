"""Tensors by name of a file or folder in any form that weights are published in."""

import copy
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxtag.errors import UserError
from jaxtag.storage import json_files, transfer
from jaxtag.storage.paths import is_store, make_path
from jaxtag.weights.flax_file import FlaxFile
from jaxtag.weights.safetensors_io import SINGLE, SafetensorsFile, read_json
from jaxtag.weights.torch_file import TorchFile

# What a folder is read by, the first that is there.
WHOLE = (
    *(SINGLE, f"{SINGLE}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    "flax_model.msgpack",
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack")
# Files of trainers beside the weights.
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Other formats in which weights are published: suffix -> what it is.
_FORMATS = {
    ".npz": "an .npz archive, arrays of NumPy",
    ".npy": "an .npy file, one array of NumPy",
    ".h5": "an HDF5 file (Keras)",
    ".hdf5": "an HDF5 file (Keras)",
    ".keras": "an archive of Keras",
    ".onnx": "a program of ONNX",
    ".gguf": "a GGUF file",
    ".tflite": "a program of TensorFlow Lite",
}
_MAGIC = {b"\x93NUMPY": ".npy", b"\x89HDF\r\n": ".h5", b"GGUF": ".gguf"}
_FLOATS = ("float64", "float32", "float16", "bfloat16")


class TensorFile(Protocol):
    """The tensors of one file, by their names.

    Attributes:
        metadata: texts that the file holds beside its tensors.
    """

    metadata: dict[str, str]

    def keys(self) -> list[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> str: ...
    def read(self, name: str) -> np.ndarray: ...


class Tensors(Mapping[str, np.ndarray]):
    """Mapping from names to float32 tensors; each is read on access.

    Args:
        path: a file (safetensors; .bin, .pt or .pth of PyTorch; .msgpack of Flax), the index of
            several (`model.safetensors.index.json`), or a folder that holds either.

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
        # Name -> (file, the tensor's name in it).
        self._files: dict[str, tuple[TensorFile, str]] = {}
        for path in _files(self.path):
            file = _open(path)
            self.metadata |= file.metadata
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
        return file.shape(stored_name)

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored_name = self._files[name]
        dtype = file.dtype(stored_name)
        if dtype not in _FLOATS:
            raise UserError(f"{self.path}: {name} holds {dtype}; weights are {', '.join(_FLOATS)}")
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite: see is_finite
            return file.read(stored_name).astype(np.float32)

    def __contains__(self, name: object) -> bool:
        return name in self._files  # without reading the tensor, as a Mapping would

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def choose_files(names: Iterable[str]) -> list[str]:
    """The names of a folder's files that it is read by: one, or several that compete."""
    names = sorted(set(names) - set(_NO_WEIGHTS))
    for name in WHOLE:
        if name in names:
            return [name]
    by_suffix = ([name for name in names if name.endswith(suffix)] for suffix in SUFFIXES)
    return next(filter(None, by_suffix), [])


def shards(index: Path, check: bool = True) -> list[Path]:
    """The files that an index names, all of them in its folder.

    Args:
        check: that they are there.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise UserError(f"{index} is damaged: it has no weight_map")
    files = [index.parent / name for name in sorted(set(names.values()))]
    for file in files:
        if file.parent != index.parent or ".." in file.parts[-1:]:
            raise UserError(f"{index} names {file}, which is not beside it")
        if check and not file.is_file():
            raise UserError(f"{file} is missing, though {index.name} names it")
    return files


def _files(path: Path) -> list[Path]:
    """The files of weights that `path` stands for."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return shards(path) if path.name.endswith(".index.json") else [path]
    names = [file.name for file in path.iterdir()]
    chosen = choose_files(names)
    if len(chosen) > 1:
        listed = ", ".join(chosen[:5])
        raise UserError(f"{path} holds several files ({listed}): name the one to read")
    if chosen:
        file = path / chosen[0]
        return shards(file) if chosen[0].endswith(".index.json") else [file]
    for name in names:
        if Path(name).suffix in _FORMATS:
            raise _format_error(path / name, Path(name).suffix)
    raise UserError(f"{path} holds no weights: there is none of {', '.join(WHOLE)}")


def _open(path: Path) -> TensorFile:
    """A file, read as what its first bytes and its name say it is."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if wrong := _wrong_format(path, start):
        raise wrong
    if not is_store(path):
        return _open_local(path, start)
    with tempfile.TemporaryDirectory(prefix="jaxtag-") as folder:
        local = Path(folder) / path.name
        transfer.download(path, local)
        try:
            return _open_local(local, start)  # it can be read after its name is gone
        except UserError as error:
            raise UserError(str(error).replace(str(local), str(path))) from error


def _open_local(path: Path, start: bytes) -> TensorFile:
    if start[8:9] == b"{":
        return SafetensorsFile(path)
    if path.suffix == ".msgpack":
        return FlaxFile(path)
    # A zip archive is torch's since 1.6; before, a pickle's first opcode without a header.
    is_torch = start.startswith((b"PK\x03\x04", *(bytes((0x80, n)) for n in range(2, 6))))
    return TorchFile(path) if is_torch or path.suffix in _PICKLES else SafetensorsFile(path)


def _wrong_format(path: Path, start: bytes) -> UserError | None:
    """What to say of a file of another format, by its first bytes and its name; None if it fits."""
    if json_files.is_lfs_pointer(start):
        return json_files.lfs_pointer_error(path)
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return UserError(
            f"{path} is no whole safetensors file: it is a web page, as a download that failed "
            "leaves it"
        )
    if path.suffix in _FORMATS and start[8:9] != b"{":
        return _format_error(path, path.suffix)
    if start.startswith(b"PK\x03\x04") and _holds_arrays(path):
        return _format_error(path, ".npz")
    magic = next((magic for magic in _MAGIC if start.startswith(magic)), None)
    return _format_error(path, _MAGIC[magic]) if magic else None


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
        f"{path} is {_FORMATS[suffix]}: jaxtag reads {', '.join(SUFFIXES)}. Convert it with\n"
        "  from safetensors.numpy import save_file\n"
        f'  save_file({arrays}, "model.safetensors")'
    )
