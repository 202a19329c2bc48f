"""MD5 of official files. Another one is worth a warning: mirrors repack and change them."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path


def archive_warnings(archives: Iterable[Path], published: Mapping[str, str]) -> list[str]:
    """A warning for each archive whose MD5 is not the published one of its name."""
    return [
        warning
        for path in archives
        if path.name in published
        for warning in _warnings(path.name, _file_md5(path), published[path.name])
    ]


def content_warnings(name: str, data: bytes, published: str) -> list[str]:
    """A warning where the MD5 of a file's content is not the published one."""
    return _warnings(name, hashlib.md5(data, usedforsecurity=False).hexdigest(), published)


def _warnings(name: str, md5: str, published: str) -> list[str]:
    if md5 == published:
        return []
    return [f"{name} is not as it was published: its MD5 is {md5}, not {published}"]


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
