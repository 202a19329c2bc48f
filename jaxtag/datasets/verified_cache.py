"""Which pictures were found sound before a preparation was stopped, so that it can go on."""

import hashlib
import os
from pathlib import Path

_SIZE = 16  # bytes of a digest
_FLUSHED = 256  # digests that a killed process may lose


class VerifiedCache:
    """Digests of sound pictures, in a file that appears with the first one.

    To decode a picture costs many times what it costs to read and to write it. Use it as a context
    manager; `forget` when the data set is whole.

    Args:
        path: the file; what a killed process left in it is read, and added to.
    """

    def __init__(self, path: Path):
        self._path = path
        data = path.read_bytes() if path.exists() else b""
        whole = len(data) // _SIZE * _SIZE  # the last one may be cut short
        self._known = {data[start : start + _SIZE] for start in range(0, whole, _SIZE)}
        self._new: list[bytes] = []
        if whole < len(data):
            os.truncate(path, whole)

    def __enter__(self) -> "VerifiedCache":
        return self

    def __exit__(self, *exception) -> None:
        self._flush()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    @staticmethod
    def digest(data: bytes) -> bytes:
        """Of the bytes of a picture."""
        return hashlib.blake2b(data, digest_size=_SIZE).digest()

    def add(self, digest: bytes) -> None:
        """Notes that a picture is sound."""
        if digest not in self._known:
            self._known.add(digest)
            self._new.append(digest)
        if len(self._new) >= _FLUSHED:
            self._flush()

    def forget(self) -> None:
        """Deletes the file."""
        self._new.clear()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._new:
            with self._path.open("ab") as file:
                file.write(b"".join(self._new))
            self._new.clear()
