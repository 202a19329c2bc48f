"""A manifest beside each checkpoint, by which damage is found before anything is restored.

Orbax makes a checkpoint appear at once and whole, but does not notice files that were truncated,
changed or lost afterwards. The manifest lists every file with its size and CRC-32C. A CRC is right
here because damage, not forgery, is looked for, and object stores list this one with each object.

No process reads what others have written. Each sums its own files when they are written
(`sum_own_files`), and before a restore each verifies its share (`verify_share`): the time goes down
with the number of processes. What lies on an object store is not read at all: its sums are those
that the store computed when it received the data, and one listing compares them.
"""

import base64
import dataclasses
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
from etils import epath

from jaxtag.errors import UserError
from jaxtag.storage import json_files, store_errors, transfer
from jaxtag.storage.paths import is_store

NAME = "jaxtag_manifest.json"
# Orbax writes these after the manifest: the time of the commit, and nothing that restoring needs.
_NOT_LISTED = {NAME, "commit_success.txt", "_CHECKPOINT_METADATA"}
_SUMS = "jaxtag_sums.process_"  # files that are there until the manifest is written
_CHUNK = 1 << 18  # bytes; larger ones leave the processor's cache before they are summed
_READERS = 4

Sum = tuple[int, int]  # size in bytes, checksum


class DamagedCheckpointError(Exception):
    """A checkpoint that cannot be trusted; the message says which file and why."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        files: relative path -> (size in bytes, checksum).
        notes: what else was to be known of it without opening it; JSON.
        checksum: the kind of the sums: "crc32c", or "crc32" in those of older versions.
    """

    files: Mapping[str, Sum]
    notes: Mapping[str, Any]
    checksum: str = "crc32c"


def write(directory: os.PathLike | str, notes: Mapping[str, Any]) -> None:
    """Writes the manifest of a finished folder, atomically and flushed to the disk.

    Files that no process has summed with `sum_own_files` are summed here.
    """
    folder = epath.Path(directory)
    files = _listed_sums(folder) if is_store(folder) else _collected_sums(folder)
    body = {"files": dict(sorted(files.items())), "notes": dict(notes), "checksum": "crc32c"}
    _write(folder, body)


def add_metrics(directory: os.PathLike | str, metrics: Mapping[str, float]) -> None:
    """Writes the manifest of a finished folder anew, with `metrics` among its notes."""
    manifest = read(directory)
    notes = {**manifest.notes, "metrics": {**manifest.notes["metrics"], **metrics}}
    body = {"files": dict(manifest.files), "notes": notes, "checksum": manifest.checksum}
    _write(epath.Path(directory), body)


def _write(folder: epath.Path, body: Mapping[str, Any]) -> None:
    text = json.dumps({"crc": _crc_of_body(body), **body}, indent=1)
    if is_store(folder):  # an object appears at once and whole
        store_errors.retry(lambda: (folder / NAME).write_text(text), folder)
        return
    temporary = folder / (NAME + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def sum_own_files(directory: os.PathLike | str, process: int) -> None:
    """Sums the arrays that a process has written into an unfinished folder, for its manifest.

    Orbax gives each process a folder of its own below each item, and renames nothing in there.
    """
    folder = epath.Path(directory)
    if is_store(folder):
        return
    own = f"ocdbt.process_{process}"
    names = [
        f"{item.name}/{name}"
        for item in folder.iterdir()
        if item.is_dir() and (item / own).is_dir()
        for name in _names(item, own)
    ]
    sums = {_final_name(name): sums for name, sums in _sums(folder, names, "crc32c").items()}
    (folder / f"{_SUMS}{process}.json").write_text(json.dumps(sums))


def read(directory: os.PathLike | str) -> Manifest:
    """Reads a manifest; raises `DamagedCheckpointError` when it is missing or changed."""
    path = epath.Path(directory) / NAME
    try:
        loaded = json_files.parse(store_errors.retry(path.read_text, path), NAME)
        body = {name: loaded[name] for name in ("files", "notes", "checksum") if name in loaded}
        files = {name: tuple(sums) for name, sums in body["files"].items()}
        manifest = Manifest(files, body["notes"], body.get("checksum", "crc32"))
        if loaded["crc"] != _crc_of_body(body):
            raise DamagedCheckpointError(f"{NAME} was changed")
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{NAME} is missing") from None
    except UserError as error:
        raise DamagedCheckpointError(str(error)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{NAME} is not readable ({error})") from None
    return manifest


def check_sizes(directory: os.PathLike | str) -> Manifest:
    """Checks that each file of the manifest is there at its size, without reading it.

    On an object store the checksums are compared as well.

    Returns the manifest; raises `DamagedCheckpointError` otherwise.
    """
    folder = epath.Path(directory)
    manifest = read(folder)
    if is_store(folder):
        _compare_listing(folder, manifest)
        return manifest
    for name, (size, _) in manifest.files.items():
        path = folder / name
        try:
            actual = path.stat().length
        except FileNotFoundError:
            raise DamagedCheckpointError(f"{name} is missing") from None
        if actual != size:
            raise DamagedCheckpointError(f"{name} holds {actual} bytes instead of {size}")
    return manifest


def verify(directory: os.PathLike | str) -> Manifest:
    """Compares every file with the manifest; on an object store, its size and checksum there.

    Returns the manifest; raises `DamagedCheckpointError` at the first file that is missing, cut or
    changed.
    """
    manifest = check_sizes(directory)
    verify_share(directory, manifest, 0, 1)
    return manifest


def verify_share(
    directory: os.PathLike | str, manifest: Manifest, process: int, num_processes: int
) -> None:
    """Reads a process's share of the files, about as many bytes as any other's.

    Raises:
        DamagedCheckpointError: A file does not hold what the manifest says.
    """
    folder = epath.Path(directory)
    if is_store(folder):  # `check_sizes` has compared the store's own sums
        return
    names = _shares(manifest.files, num_processes)[process]
    try:
        sums = _sums(folder, names, manifest.checksum)
    except OSError as error:
        raise DamagedCheckpointError(f"a file cannot be read ({error})") from None
    for name, actual in sums.items():
        if actual != manifest.files[name]:
            raise DamagedCheckpointError(f"{name} does not hold the bytes that were written")


def _shares(files: Mapping[str, Sum], count: int) -> list[list[str]]:
    """The files in `count` parts of about as many bytes; alike on every process."""
    parts: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * count
    for name in sorted(files, key=lambda name: (-files[name][0], name)):
        smallest = sizes.index(min(sizes))
        parts[smallest].append(name)
        sizes[smallest] += files[name][0] + 1
    return parts


def _collected_sums(folder: epath.Path) -> dict[str, Sum]:
    """The sums of all files: those that processes have left there, and the rest summed now."""
    sums: dict[str, Sum] = {}
    for path in folder.glob(f"{_SUMS}*.json"):
        sums |= {name: tuple(value) for name, value in json.loads(path.read_text()).items()}
        path.unlink()
    names = list(_names(folder))
    summed = {name: sums[name] for name in names if name in sums}
    return summed | _sums(folder, [name for name in names if name not in sums], "crc32c")


def _listed_sums(folder: epath.Path) -> dict[str, Sum]:
    """The sums of all objects, as the store lists them."""
    return {
        name: (entry["size"], int.from_bytes(base64.b64decode(entry["crc32c"]), "big"))
        for name, entry in transfer.list_objects(folder).items()
        if name not in _NOT_LISTED
    }


def _compare_listing(folder: epath.Path, manifest: Manifest) -> None:
    listed = _listed_sums(folder)
    for name, (size, checksum) in manifest.files.items():
        if name not in listed:
            raise DamagedCheckpointError(f"{name} is missing")
        if listed[name][0] != size:
            raise DamagedCheckpointError(f"{name} holds {listed[name][0]} bytes instead of {size}")
        if manifest.checksum == "crc32c" and listed[name][1] != checksum:
            raise DamagedCheckpointError(f"{name} does not hold the bytes that were written")


def _final_name(name: str) -> str:
    """Without the suffix that the folder of an item has while it is written."""
    item, _, rest = name.partition("/")
    return f"{item.partition('.orbax-checkpoint-tmp')[0]}/{rest}"


def _names(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for path in (folder / prefix).iterdir():
        name = f"{prefix}/{path.name}" if prefix else path.name
        if path.is_dir():
            yield from _names(folder, name)
        elif name not in _NOT_LISTED:
            yield name


def _sums(folder: epath.Path, names: Iterable[str], checksum: str) -> dict[str, Sum]:
    names = list(names)
    with ThreadPoolExecutor(_READERS) as pool:
        sums = pool.map(lambda name: _size_and_checksum(folder / name, checksum), names)
        return dict(zip(names, sums, strict=True))


def _size_and_checksum(path: epath.Path, checksum: str) -> Sum:
    extend = google_crc32c.extend if checksum == "crc32c" else lambda crc, b: zlib.crc32(b, crc)
    size = crc = 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = extend(crc, chunk)
    return size, crc


def _crc_of_body(body: Mapping) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
