"""The folder of a run's checkpoints: which steps are finished, and removing and setting aside.

On a disk a step's folder appears by a rename, and goes by one. An object store renames no folder:
Orbax writes into the step's own folder there, and a step counts once it has its manifest and
Orbax's mark of the commit. It is removed by removing the manifest first.
"""

import itertools
from pathlib import Path

from absl import logging
from etils import epath

from jaxtag.storage import store_errors, transfer
from jaxtag.storage.paths import is_store, require_gs
from jaxtag.training import checkpoint_manifest

TEMPORARY = ".orbax-checkpoint-tmp"  # the suffix Orbax gives to a folder it is still writing
_DELETING = ".deleting"
_DAMAGED = ".damaged"
_COMMITTED = "commit_success.txt"  # what Orbax writes last into a folder of a store


def check_scheme(directory: Path, setting: str = "") -> None:
    """Raises UsageError for a store that Orbax writes no checkpoints to."""
    require_gs(directory, setting, "Orbax writes and reads no checkpoints there")


def steps(directory: epath.Path) -> list[int]:
    """The finished steps in a folder, ascending; their contents are not looked at."""
    names = [path.name for path in _list(directory) if path.name.isdecimal()]
    numbers = sorted(int(name) for name in names if name == str(int(name)))
    if is_store(directory):
        return [number for number in numbers if _is_committed(directory / str(number))]
    return numbers


def remove_unfinished(directory: epath.Path) -> None:
    """Removes what a killed run left: half of a step that it saved or removed."""
    finished = set(steps(directory))
    for path in _list(directory):
        step, suffix = path.name.split(".")[0], path.name.partition(".")[2]
        if not step.isdecimal():
            continue
        is_uncommitted = is_store(path) and not suffix and int(step) not in finished
        if is_uncommitted or f".{suffix}".startswith((TEMPORARY, _DELETING)):
            logging.info("Removing %s, left by a run that was killed", path)
            _remove_folder(path)


def remove_step(path: epath.Path) -> None:
    """Removes a finished step: from the first moment on, what is left of it looks like none."""
    if is_store(path):
        manifest = path / checkpoint_manifest.NAME
        store_errors.retry(lambda: manifest.unlink(missing_ok=True), path)
        _remove_folder(path)
        return
    going = _free_name(path, _DELETING)
    path.rename(going)
    going.rmtree()


def set_aside(path: epath.Path) -> None:
    """Renames a damaged step, so that another takes its place. A store copies its objects."""
    aside = _free_name(path, _DAMAGED)
    path.rename(aside)
    logging.warning("%s is set aside as %s", path, aside.name)


def _list(directory: epath.Path) -> list[epath.Path]:
    """What lies in a folder; nothing where there is none."""

    def read() -> list[epath.Path]:
        return list(directory.iterdir()) if directory.exists() else []

    try:
        return store_errors.retry(read, directory)
    except FileNotFoundError:  # the last object in it was removed meanwhile
        return []


def _is_committed(path: epath.Path) -> bool:
    names = (checkpoint_manifest.NAME, _COMMITTED)
    return all(store_errors.retry((path / name).exists, path) for name in names)


def _remove_folder(path: epath.Path) -> None:
    if is_store(path):
        transfer.remove_folder(path)
    else:
        path.rmtree()


def _free_name(path: epath.Path, suffix: str) -> epath.Path:
    numbers = itertools.chain([""], itertools.count(2))
    names = (path.parent / f"{path.name}{suffix}{number}" for number in numbers)
    return next(name for name in names if not name.exists())
