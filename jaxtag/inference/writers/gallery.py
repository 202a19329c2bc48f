"""A static page of annotated pictures that can be searched by tag, caption and file name.

It needs no server: pictures.js holds the data, thumbnails lie beside it, and the page shows as many
pictures as fit the window. Whatever comes from a file's name or from a tag enters the page as text.
"""

import json
import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import cv2
import simplejpeg

from jaxtag.data import files
from jaxtag.data.decode import DecodeError, decode
from jaxtag.errors import UserError
from jaxtag.storage import atomic_file
from jaxtag.storage.atomic_file import AtomicFile

_THUMBNAIL = 256  # pixels, the longer side at most
_QUALITY = 80
_IN_FOLDER = 1000  # thumbnails
_MARK = "pictures.js"  # by which a folder is known as a gallery


class GalleryWriter:
    """Writes FOLDER/index.html with all that it needs.

    Args:
      folder: new, empty, or a gallery, which is replaced.
      threads: that make thumbnails.

    Raises:
      UserError: `folder` holds something else, or cannot be written.
    """

    def __init__(self, folder: Path, threads: int):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            data = folder / _MARK
            # A run that was killed left the data unfinished.
            ours = data.exists() or atomic_file.partial_path(data).exists()
            if any(folder.iterdir()) and not ours:
                raise UserError(f"--gallery={folder} holds other files: name a new folder")
            shutil.rmtree(folder / "thumbnails", ignore_errors=True)
        except OSError as error:
            raise UserError(f"--gallery={folder} cannot be written: {error.strerror}") from error
        self._data = AtomicFile(folder / _MARK, "--gallery")
        self._data.write("window.PICTURES = [\n")
        self._pool = ThreadPoolExecutor(threads)
        self._waiting: deque[tuple[dict[str, Any], Future[bool]]] = deque()
        self._most_waiting = 4 * threads
        self._count = 0

    def add(self, line: dict[str, Any]) -> None:
        """Adds one picture; one that could not be read is shown as such."""
        number, self._count = self._count, self._count + 1
        place = f"thumbnails/{number // _IN_FOLDER:04d}/{number:07d}.jpg"
        path = Path(os.path.abspath(line["file"]))
        entry = {
            "file": line["file"],
            "link": _link(path, self._folder),
            "thumbnail": place,
            "tags": [[tag["tag"], tag["score"]] for tag in line.get("tags", [])],
            "caption": line.get("caption", ""),
            "error": line.get("error", ""),
        }
        made = self._pool.submit(_thumbnail, path, self._folder / place, entry["error"])
        self._waiting.append((entry, made))
        while len(self._waiting) > self._most_waiting:
            self._write_next()

    def finish(self) -> None:
        """Waits for the last thumbnails; the page is whole after it."""
        while self._waiting:
            self._write_next()
        self._pool.shutdown()
        self._data.write("];\n")
        self._data.finish()
        page = (
            resources.files("jaxtag.inference.writers").joinpath("gallery.html").read_text("utf-8")
        )
        index = AtomicFile(self._folder / "index.html", "--gallery")
        index.write(page)
        index.finish()

    def _write_next(self) -> None:
        entry, made = self._waiting.popleft()
        try:
            if not made.result():
                entry["thumbnail"] = ""
        except OSError as error:
            message = f"--gallery={self._folder} cannot be written: {error.strerror}"
            raise UserError(message) from error
        self._data.write(json.dumps(entry) + ",\n")


def _link(path: Path, folder: Path) -> str:
    """The picture's address, seen from the page."""
    relative = os.path.relpath(path, os.path.abspath(folder))
    # "./": a name such as `a:b.jpg` is no scheme.
    return "./" + quote_from_bytes(os.fsencode(relative))


def _thumbnail(path: Path, place: Path, error: str) -> bool:
    """Writes it; False where the picture cannot be read (any more)."""
    if error:
        return False
    record = files.read(os.fspath(path))
    if record["error"]:
        return False
    try:
        pixels = decode(record["image"], min_size=_THUMBNAIL)
    except DecodeError:
        return False
    height, width = pixels.shape[:2]
    scale = min(1.0, _THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(simplejpeg.encode_jpeg(small, quality=_QUALITY))
    return True
