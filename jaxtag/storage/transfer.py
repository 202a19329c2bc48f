"""Copies files and folders between this machine and object stores."""

import functools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxtag.storage.store_errors import retry

_THREADS = 8


def file_system(path: str | os.PathLike[str]) -> Any:
    """fsspec's file system of a path of a store."""
    import fsspec

    return fsspec.filesystem(os.fspath(path).partition("://")[0])


def upload(local: Path, target: Path) -> None:
    """Copies a file to a store, where it appears at once and whole."""
    retry(lambda: file_system(target).put_file(os.fspath(local), os.fspath(target)), target)


def download(source: Path, local: Path) -> None:
    """Copies a file of a store to `local`, whose folder is created."""
    local.parent.mkdir(parents=True, exist_ok=True)
    retry(lambda: file_system(source).get_file(os.fspath(source), os.fspath(local)), source)


def download_all(pairs: Iterable[tuple[Path, Path]]) -> None:
    """Copies files of a store, each to its local path, several at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda pair: download(*pair), pairs):
            pass


def remove(path: Path) -> None:
    """Removes an object; nothing where there is none."""
    retry(functools.partial(_remove, file_system(path), [os.fspath(path)]), path)


def check_bucket(path: Path) -> None:
    """Raises FileNotFoundError where there is no bucket that could hold `path`."""
    bucket = os.fspath(path).split("/")[2]
    if not retry(lambda: file_system(path).exists(bucket), path):
        raise FileNotFoundError(bucket)


def list_objects(folder: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """What a store tells of each object below a folder, by its name relative to the folder."""
    root = os.fspath(folder).partition("://")[2].rstrip("/") + "/"
    entries = retry(lambda: file_system(folder).find(os.fspath(folder), detail=True), folder)
    return {
        name.removeprefix(root): entry
        for name, entry in entries.items()
        if name.startswith(root) and name != root
    }


def list_names(folder: Path) -> list[str]:
    """The names of the objects and folders in a folder, sorted; none where there is none."""
    try:
        paths = retry(lambda: file_system(folder).ls(os.fspath(folder), detail=False), folder)
    except FileNotFoundError:
        return []
    return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)


def remove_folder(folder: Path) -> None:
    """Removes what lies below a folder of a store; nothing where there is nothing."""
    system = file_system(folder)
    for _ in range(3):  # what one listing shows may be gone, or incomplete after an error
        names = [f"{os.fspath(folder).rstrip('/')}/{name}" for name in list_objects(folder)]
        if not names:
            return
        retry(functools.partial(_remove, system, names), folder)


def _remove(system: Any, names: list[str]) -> None:
    try:
        system.rm(names)
    except FileNotFoundError:
        return
