"""Arrays that were computed from a file, kept in the user's cache until the file changes."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxtag.errors import UserError
from jaxtag.storage.atomic_file import replacing


def cached_arrays(
    kind: str, path: str, compute: Callable[[str], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `compute` makes of a file, from `$XDG_CACHE_HOME/jaxtag` where it was made before.

    A cache that cannot be written or read is not used.
    """
    state = os.stat(path)
    identity = f"{os.path.abspath(path)} {state.st_size} {state.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cached = Path(root) / "jaxtag" / kind / f"{digest}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError), np.load(cached) as arrays:
        return dict(arrays)
    values = compute(path)
    with (
        contextlib.suppress(UserError, OSError),
        replacing(cached) as partial,
        partial.open("wb") as file,
    ):
        np.savez(file, **values)  # type: ignore[arg-type]  # names are never `allow_pickle`
    return values
