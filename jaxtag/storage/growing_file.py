"""A binary file that grows during a run: metrics, events.

On a disk each write is appended at once. An object cannot be appended to: there the file grows in
this machine's memory, and is uploaded whole, every half minute where it has changed, and at `flush`
and `close`.
"""

import os
import threading
from pathlib import Path
from typing import IO

from absl import logging

from jaxtag.storage import store_errors, transfer
from jaxtag.storage.paths import is_store

_UPLOAD_SECONDS = 30.0


class GrowingFile:
    """Appends to a file until `close`.

    Args:
        path: The file.
        new: There must be none yet; else what there is stays.

    Raises:
        OSError: It cannot be opened; `FileExistsError` where there is one that must not be.
    """

    def __init__(self, path: Path, *, new: bool = False):
        self._path = path
        self._file: IO[bytes] | None = None
        if not is_store(path):
            self._file = path.open("xb" if new else "ab", buffering=0)
            return
        exists = store_errors.retry(path.exists, path)
        if exists and new:
            raise FileExistsError(os.fspath(path))
        self._data = bytearray(store_errors.retry(path.read_bytes, path) if exists else b"")
        self._num_uploaded = len(self._data)
        self._uploading = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._upload_regularly, name="upload", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Appends `data`."""
        if self._file is None:
            self._data += data
            return
        rest = memoryview(data)  # a full disk takes a part of it, then raises
        while rest:
            rest = rest[self._file.write(rest) :]

    def flush(self) -> None:
        """Returns when what was written would survive the end of this process."""
        if self._file is None:
            self._upload()

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._file is not None:
            self._file.close()
            return
        self._ended.set()
        self._thread.join()
        self._upload()

    def _upload(self) -> None:
        with self._uploading:
            size = len(self._data)
            if size == self._num_uploaded:
                return
            data, name = bytes(self._data[:size]), os.fspath(self._path)
            system = transfer.file_system(self._path)
            store_errors.retry(lambda: system.pipe_file(name, data), self._path)
            self._num_uploaded = size

    def _upload_regularly(self) -> None:
        while not self._ended.wait(_UPLOAD_SECONDS):
            try:
                self._upload()
            except Exception as error:  # `flush` and `close` raise it, should it last
                logging.warning("%s: %s", self._path, store_errors.first_line(error))
