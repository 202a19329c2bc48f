"""Checksums of official files. Another one is worth a warning: mirrors pack and change them."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path


def differing_archives(archives: Iterable[Path], published: Mapping[str, str]) -> list[str]:
    """A warning for each archive whose MD5 is not the published one of its name."""
    return [
        warning
        for path in archives
        if path.name in published
        for warning in _differing(path.name, _of_file(path), published[path.name])
    ]


def differing_content(name: str, data: bytes, published: str) -> list[str]:
    """A warning where the MD5 of a file's content is not the published one."""
    return _differing(name, hashlib.md5(data, usedforsecurity=False).hexdigest(), published)


def _differing(name: str, found: str, published: str) -> list[str]:
    if found == published:
        return []
    return [f"{name} is not as it was published: its MD5 is {found}, not {published}"]


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
