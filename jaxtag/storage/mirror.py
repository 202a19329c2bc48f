"""A local copy of a folder of an object store, for what changes files in place.

What was changed goes back to the store when the work is done: new files first, then those that name
them, and removals last, so that whoever reads the folder meets a whole one.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxtag.errors import UserError
from jaxtag.storage import transfer
from jaxtag.storage.paths import is_store
from jaxtag.storage.store_lock import StoreLock


@contextlib.contextmanager
def local_copy(folder: Path, setting: str, *, last: str, write: bool = True) -> Iterator[Path]:
    """A context with a local folder that holds what `folder` does; a local one is given as it is.

    Args:
        folder: It need not exist.
        setting: The flag that names it, for messages: "--index".
        last: The file that names the others, which is uploaded after them.
        write: Whether changes go back. Nobody else may change the folder meanwhile.

    Raises:
        UserError: Another process changes the folder, or the store fails.
    """
    if not is_store(folder):
        yield folder
        return
    with contextlib.ExitStack() as stack:
        if write:
            stack.enter_context(StoreLock(folder, setting))
        local = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxtag-")))
        names = transfer.list_objects(folder)
        transfer.download_all([(folder / name, local / name) for name in names])
        before = _states(local)
        try:
            yield local
        except UserError as error:  # who reads it knows the store's name alone
            message = str(error).replace(os.fspath(local), os.fspath(folder))
            raise type(error)(message) from error
        finally:
            if write:
                _send_back(local, folder, before, last)


def _send_back(local: Path, folder: Path, before: dict[str, tuple[int, int]], last: str) -> None:
    after = _states(local)
    changed = [name for name, state in after.items() if before.get(name) != state]
    for name in sorted(changed, key=lambda name: (name in before, name == last, name)):
        transfer.upload(local / name, folder / name)
    for name in before.keys() - after.keys():
        transfer.remove(folder / name)


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
    }
