"""The persistent cache of compiled programs."""

import os
from pathlib import Path

import jax

from jaxtag.storage.paths import make_path


def use_compilation_cache() -> Path | None:
    """Keeps compiled programs on disk, so that a restart does not compile again.

    An entry that cannot be written, or was cut off by a full disk, costs a warning and a
    compilation: JAX decompresses what it reads, and an incomplete entry has no end.

    Returns:
        The folder: $JAX_COMPILATION_CACHE_DIR, or `jaxtag/compiled` in the user's cache folder;
        None for a user without a home (a container started under a number), who has no cache.
    """
    folder: str | Path | None = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not folder:
        try:
            cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError:
            return None
        folder = Path(cache) / "jaxtag" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return make_path(folder, "$JAX_COMPILATION_CACHE_DIR")
