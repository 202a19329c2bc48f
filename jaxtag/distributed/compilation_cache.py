"""The persistent cache of compiled programs."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> Path:
    """Keeps compiled programs on disk, so that a restart does not compile again.

    Returns:
        The folder: $JAX_COMPILATION_CACHE_DIR, or `jaxtag/compiled` in the user's cache folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or Path(cache) / "jaxtag" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return Path(folder)
