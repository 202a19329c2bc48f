"""What a folder is mounted from, and whether a bucket mounted as a folder can hold a run."""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from jaxtag.errors import UserError

_GCSFUSE = "fuse.gcsfuse"
_ESCAPED_BLANK = "\\040"  # as the kernel writes it


def file_system(path: str | os.PathLike[str], mounts: str = "/proc/mounts") -> str:
    """The type of the file system that holds `path`, as the kernel names it; "" if not known."""
    folder = os.path.realpath(path)
    kinds = {"": ""}
    with contextlib.suppress(OSError), open(mounts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            _, mount, kind, *_ = line.split()
            mount = mount.replace(_ESCAPED_BLANK, " ").rstrip("/")
            if folder == mount or folder.startswith(f"{mount}/"):
                kinds[mount] = kind
    return kinds[max(kinds, key=len)]


def check_folder_renames(workdir: Path, setting: str) -> None:
    """Checks that folders of `workdir` can be renamed, where it is a bucket mounted by gcsfuse.

    A checkpoint appears by a rename; gcsfuse renames folders of buckets with a hierarchical
    namespace only.

    Raises:
        UserError: They cannot.
    """
    if file_system(workdir) != _GCSFUSE:
        return
    folder = workdir / f"rename-{secrets.token_hex(4)}"
    renamed = folder.with_name(f"{folder.name}-renamed")
    try:
        folder.mkdir()
        (folder / "file").touch()
        folder.rename(renamed)
    except OSError as error:
        raise UserError(
            f"{setting}={workdir} is a bucket mounted by gcsfuse that cannot rename folders "
            f"({error.strerror or error}), which a checkpoint needs: make the bucket with a "
            f"hierarchical namespace, or write {setting}=gs://… without the mount; data may stay "
            "on it"
        ) from error
    finally:
        for path in (folder, renamed):
            shutil.rmtree(path, ignore_errors=True)
