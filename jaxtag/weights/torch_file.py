"""Tensors of PyTorch's files (`torch.save`: .bin, .pt, .pth; `torch.jit.save`) without PyTorch.

Since version 1.6 a file is a zip archive with the pickle `data.pkl` and a member for each storage;
before, it was five pickles in a row, followed by the storages. Either way the pickle is read by
`pickle_reader`, which executes nothing, and a storage when a tensor in it is asked for.
"""

import dataclasses
import functools
import io
import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import ml_dtypes
import numpy as np

from jaxtag.errors import UserError, printable
from jaxtag.weights import pickle_reader
from jaxtag.weights.pickle_reader import ForeignNameError, PickleError, Storage, TensorView

# What damaged archives raise; RuntimeError for an encrypted member.
_DAMAGE = (OSError, zipfile.BadZipFile, struct.error, EOFError, ValueError, RuntimeError)
_MAGIC = 0x1950A86A20F9469CFC6C  # of the older form
_PROTOCOL = 1001
_MAX_DEPTH = 32  # of dictionaries in each other
_MAX_ENTRIES = 1_000_000
# Where training programs keep the weights beside their optimizer, the best first: an average of
# them is what they evaluate.
_WEIGHTS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema", "teacher"),
    *("state_dict", "model_state_dict", "model", "module", "net", "params", "student"),
)


class TorchFile:
    """The tensors of a file of `torch.save`, by their names.

    Raises:
        UserError: the file is damaged, or holds anything besides tensors, in dictionaries, and
            plain values; a class or function that it names is named, and never called.
    """

    metadata: dict[str, str] = {}  # noqa: RUF012  (as of safetensors: these files have none)

    def __init__(self, path: Path):
        self._path = path
        try:
            is_zip = zipfile.is_zipfile(path)
            content, self._storages = _open_archive(path) if is_zip else _open_legacy(path)
            self._views = _flatten(_select_weights(path, content))
        except ForeignNameError as error:
            raise UserError(
                f"{path} names {error}, which is no part of a tensor: refused, as it could run any "
                f"program. Where you trust the file, save its weights alone:\n"
                f'  import torch; state = torch.load("{path.name}", map_location="cpu")\n'
                '  torch.save({k: v for k, v in state.items() if hasattr(v, "shape")}, "model.pth")'
            ) from error
        except PickleError as error:
            raise UserError(f"{path} is no file of PyTorch's weights: {error}") from error
        except _DAMAGE as error:
            raise UserError(f"{path} is damaged: {error}") from error

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._views)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self._views[name].shape

    def dtype(self, name: str) -> str:
        """NumPy's name of a tensor's numbers, such as "bfloat16"."""
        return self._views[name].storage.dtype

    def read(self, name: str) -> np.ndarray:
        """A tensor, as it is stored."""
        view = self._views[name]
        dtype = _numpy_dtype(view.storage.dtype)
        try:
            data = self._storages.read(view.storage)
        except _DAMAGE as error:
            raise UserError(f"{self._path} is damaged: {name}: {error}") from error
        if len(data) < view.storage.numel * dtype.itemsize:
            raise UserError(f"{self._path} is cut off: {name} is not whole")
        numbers = np.frombuffer(data, dtype, view.storage.numel)
        strides = [stride * dtype.itemsize for stride in view.strides]
        # Inside the storage, as the view was checked to be.
        tensor = np.lib.stride_tricks.as_strided(
            numbers[view.offset :], view.shape, strides, writeable=False
        )
        return np.ascontiguousarray(tensor).reshape(view.shape)


class _Storages(Protocol):
    """Reads storages of a file."""

    def read(self, storage: Storage) -> bytes:
        """The bytes of a storage; fewer where the file ends before."""


class _ArchivedStorages:
    """Storages that are members of a zip archive, as it stores them: uncompressed."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        self._archive, self._folder = archive, folder
        self._read = functools.lru_cache(maxsize=1)(self._read_member)  # flat parameters share one

    def read(self, storage: Storage) -> bytes:
        start = storage.offset * _numpy_dtype(storage.dtype).itemsize
        data = self._read(storage.key)
        return data[start:] if start else data

    def _read_member(self, key: str) -> bytes:
        return _read_member(self._archive, f"{self._folder}data/{key}")


@dataclasses.dataclass(frozen=True)
class _LegacyStorages:
    """Storages one after the other behind the pickles.

    Attributes:
        file: open, so that it can be read after its name is gone.
        positions: key -> (position of its first byte, number of its elements).
    """

    file: BinaryIO
    positions: dict[str, tuple[int, int]]

    def read(self, storage: Storage) -> bytes:
        if storage.key not in self.positions:
            raise EOFError("its storage is missing")
        position, numel = self.positions[storage.key]
        if storage.offset + storage.numel > numel:
            raise EOFError(f"its storage has {numel} numbers only")
        itemsize = _numpy_dtype(storage.dtype).itemsize
        self.file.seek(position + storage.offset * itemsize)
        return self.file.read(min(storage.numel * itemsize, _size(self.file)))


def _open_archive(path: Path) -> tuple[Any, _Storages]:
    archive = zipfile.ZipFile(path)
    pickles = [name for name in archive.namelist() if name.split("/", 1)[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise PickleError("a zip archive without the data.pkl of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    byteorder = f"{folder}byteorder"
    if byteorder in archive.namelist() and _read_member(archive, byteorder) != b"little":
        raise PickleError("it was written by a big-endian machine")
    if archive.getinfo(pickles[0]).file_size > pickle_reader.MAX_BYTES:
        raise PickleError(f"its pickle is longer than {pickle_reader.MAX_BYTES >> 20} MB")
    content = pickle_reader.load(io.BytesIO(_read_member(archive, pickles[0])))
    return content, _ArchivedStorages(archive, folder)


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise EOFError("its storage is missing") from error
    # PyTorch stores members as they are; one that is compressed could be any size.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise zipfile.BadZipFile(f"{printable(name)[:100]} is compressed, as torch.save never does")
    return archive.read(info)


def _open_legacy(path: Path) -> tuple[Any, _Storages]:
    file = path.open("rb")
    if pickle_reader.load(file) != _MAGIC or pickle_reader.load(file) != _PROTOCOL:
        raise PickleError("a pickle, and not one of torch.save")
    system = pickle_reader.load(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise PickleError("it was written by a big-endian machine")
    content = pickle_reader.load(file)
    keys = pickle_reader.load(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("its list of storages is damaged")
    sizes = {s.key: _numpy_dtype(s.dtype).itemsize for s in _storages_in(content)}
    return content, _LegacyStorages(file, _legacy_positions(file, keys, sizes))


def _legacy_positions(
    file: BinaryIO, keys: list[str], sizes: dict[str, int]
) -> dict[str, tuple[int, int]]:
    """Where each storage begins, and how many numbers it has.

    Args:
        file: at the first storage's number of elements.
        sizes: bytes of an element, by key.
    """
    positions: dict[str, tuple[int, int]] = {}
    file_size = _size(file)
    for key in keys:
        (numel,) = struct.unpack("<q", file.read(8))
        if not 0 <= numel <= file_size or key not in sizes:
            raise PickleError(f"its storage {printable(key)[:100]} is damaged")
        positions[key] = (file.tell(), numel)
        file.seek(numel * sizes[key], os.SEEK_CUR)
    return positions


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _storages_in(value: Any) -> Iterator[Storage]:
    """The storages of all tensors in nested values."""
    for item in _walk(value):
        if isinstance(item, TensorView):
            yield item.storage


def _walk(value: Any) -> Iterator[Any]:
    """All values in nested dictionaries, lists and tuples, each container once."""
    pending, seen = [value], set[int]()
    while pending:
        item = pending.pop()
        yield item
        if isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            pending += item.values() if isinstance(item, dict) else item


def _select_weights(path: Path, content: Any) -> dict[Any, Any]:
    """The dictionary of the weights in what a training program saved; says which, where several."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, dict):
            raise PickleError(f"it holds a {type(content).__name__} in place of tensors by name")
        names = [name for name in _WEIGHTS if _holds_tensors(content.get(name))]
        if not names or any(isinstance(value, TensorView) for value in content.values()):
            return content
        if len(names) > 1:
            others = ", ".join(names[1:])
            print(f"note: {path}: weights are read from {names[0]}, not {others}", file=sys.stderr)
        content = content[names[0]]
    raise PickleError("its dictionaries are nested too deeply")


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, TensorView) for item in _walk(value))


def _flatten(content: dict[Any, Any]) -> dict[str, TensorView]:
    """The tensors in nested dictionaries; names of an inner one follow its own and a dot."""
    views: dict[str, TensorView] = {}
    pending = [("", content, 0)]
    num_entries = 0
    while pending:
        prefix, values, depth = pending.pop()
        for key, value in values.items():
            num_entries += 1
            if num_entries > _MAX_ENTRIES or depth > _MAX_DEPTH:
                raise PickleError("its dictionaries are nested too deeply, or too many")
            if isinstance(value, TensorView):
                views[f"{prefix}{key}"] = value
            elif isinstance(value, dict):
                pending.append((f"{prefix}{key}.", value, depth + 1))
    return views


def _numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
