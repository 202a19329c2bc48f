"""Paths as users write them: local files and folders, or URLs of object stores.

`make_path` is the one way from text to a path. Code that gets a path uses what `pathlib` and
`etils.epath` have in common; `is_store` says which it is where the difference matters: a store has
neither links nor renames nor anything to append to.
"""

import functools
import importlib.util
import logging
import os
import re
from pathlib import Path

from jaxtag.errors import UsageError

# Scheme -> the package that reads it, which the extra of the second name installs.
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_KNOWN = ("gs", "gcs", "s3", "s3a", "az", "abfs", "hf", "http", "https", "file", "ftp", "hdfs")


def make_path(path: str | os.PathLike[str], setting: str = "") -> Path:
    """The path that a user's text or another path names.

    Args:
        path: A local path, `gs://bucket/…` or `s3://bucket/…`.
        setting: The flag or field that names it, for messages: "--workdir".

    Returns:
        A `pathlib.Path`, or an `etils.epath.Path` of a store, which has the same methods.

    Raises:
        UsageError: The scheme is another, its package is not installed, or there is no bucket.
    """
    text = os.fspath(path)
    match = _SCHEME.match(text)
    if match is None or (match[1] not in _KNOWN and "://" not in text[: match.end() + 1]):
        return Path(path)
    name = f"{setting}={text}" if setting else text
    scheme, rest = match[1], text[match.end() :]
    if scheme not in _PACKAGES:
        schemes = " or ".join(f"{known}://bucket/…" for known in _PACKAGES)
        raise UsageError(f"{name}: {scheme}: is not supported: give a local path, or {schemes}")
    if not rest.startswith("/") or not rest[1:].strip("/") or rest.startswith("//"):
        key = rest.strip("/") or "bucket"
        raise UsageError(f"{name} names no bucket (did you mean {scheme}://{key}?)")
    if not _set_up(scheme):
        package, extra = _PACKAGES[scheme]
        raise UsageError(f"{name} needs {package}: pip install 'jaxtag[{extra}]'")
    from etils import epath

    store_path: Path = epath.Path(text)
    return store_path


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of an object store."""
    return "://" in os.fspath(path)


def require_gs(path: str | os.PathLike[str], setting: str, reason: str) -> None:
    """Raises UsageError for a path of another store than gs://, with the `reason`."""
    text = os.fspath(path)
    if is_store(text) and not text.startswith("gs://"):
        name = f"{setting}={text}" if setting else text
        raise UsageError(f"{name}: {reason}: name a local folder or gs://bucket/…")


def absolute(path: Path) -> Path:
    """The path from the root of the file system; that of a store as it is."""
    return path if is_store(path) else path.absolute()


@functools.cache
def _set_up(scheme: str) -> bool:
    """Makes a scheme's client fit for several processes; False where it is not installed."""
    package, _ = _PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        return False
    import fsspec.config

    for protocol in ("gs", "gcs") if scheme == "gs" else ("s3", "s3a"):
        # What other processes write and remove is to be seen at once.
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
    # It prints each failure with its traceback; here a failure is retried, and then told in a line.
    logging.getLogger(package).setLevel(logging.CRITICAL)
    return True
