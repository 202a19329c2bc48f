"""Write-then-rename for a folder: it has its name only when all of its files are complete."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxtag.errors import UserError, write_error
from jaxtag.storage import transfer
from jaxtag.storage.paths import is_store, make_path


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str], setting: str, *, last: str) -> Iterator[Path]:
    """A context with an empty folder to write to, which becomes `path` after the `with` block.

    When the block fails, everything is deleted and `path` is as it was.

    Args:
        path: absent, or an empty folder; of an object store too.
        setting: the flag that names it, for messages: "--output".
        last: the file that is uploaded to a store after all others.

    Raises:
        UserError: there is something already, or it cannot be written.
    """
    target = make_path(path, setting)
    if is_store(target):
        if transfer.list_names(target):
            raise _not_empty(target, setting)
        with tempfile.TemporaryDirectory(prefix="jaxtag-") as local:
            yield Path(local)
            names = [p.relative_to(local).as_posix() for p in Path(local).rglob("*") if p.is_file()]
            for name in sorted(names, key=lambda name: (name == last, name)):
                transfer.upload(Path(local) / name, target / name)
        return
    target = Path(os.path.realpath(target))
    partial = target.with_name(f"{target.name}.{secrets.token_hex(8)}.partial")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise _not_empty(target, setting)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)  # takes the place of an empty folder
    except OSError as error:
        raise write_error(target, error, setting) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial)


def _not_empty(target: Path, setting: str) -> UserError:
    return UserError(f"{setting}={target} is there already and not empty: name a new folder")
