"""A static web page of annotated images that can be searched by tag, caption and file name.

It needs no server: pictures.js holds the data, the thumbnails are beside it, and the page shows as
many images as fit the window. File names and tags enter the page as text, never as markup.
"""

import json
import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from urllib.parse import quote_from_bytes

import cv2
import simplejpeg

from jaxtag.data import files
from jaxtag.data.decode import decode
from jaxtag.data.image_reader import DecodeError
from jaxtag.errors import UserError, write_error
from jaxtag.inference.writers.base import Row
from jaxtag.storage import atomic_file
from jaxtag.storage.atomic_file import AtomicFile

_THUMBNAIL_SIZE = 256  # maximum of the longer side, in pixels
_JPEG_QUALITY = 80
_THUMBNAILS_PER_FOLDER = 1000
_DATA_FILE = "pictures.js"  # also marks a folder as a gallery


class GalleryWriter:
    """Writes FOLDER/index.html with its data and thumbnails.

    Args:
        folder: new, empty, or a gallery, which is replaced.
        num_threads: threads that make thumbnails.

    Raises:
        UserError: `folder` holds other files, or cannot be written.
    """

    def __init__(self, folder: Path, num_threads: int):
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            data = folder / _DATA_FILE
            # A killed run leaves the data unfinished.
            is_gallery = data.exists() or bool(atomic_file.stale_partials(data))
            if any(folder.iterdir()) and not is_gallery:
                raise UserError(f"--gallery={folder} holds other files: name a new folder")
            self._data = AtomicFile(data, "--gallery")  # from here on no other process writes here
            _remove_thumbnails(folder / "thumbnails")
        except OSError as error:
            raise write_error(folder, error, "--gallery") from error
        self._data.write("window.PICTURES = [\n")
        self._pool = ThreadPoolExecutor(num_threads)
        self._pending: deque[tuple[Row, Future[bool]]] = deque()
        self._max_pending = 4 * num_threads
        self._count = 0

    def write(self, row: Row) -> None:
        """Adds one image; one that could not be read is shown as such."""
        number, self._count = self._count, self._count + 1
        thumbnail = f"thumbnails/{number // _THUMBNAILS_PER_FOLDER:04d}/{number:07d}.jpg"
        path = Path(os.path.abspath(row["file"]))
        entry = {
            "file": row["file"],
            "link": _link(path, self._folder),
            "thumbnail": thumbnail,
            "tags": [[tag["tag"], tag["score"]] for tag in row.get("tags", [])],
            "caption": row.get("caption", ""),
            "error": row.get("error", ""),
        }
        if entry["error"]:
            future: Future[bool] = Future()
            future.set_result(False)
        else:
            future = self._pool.submit(_write_thumbnail, path, self._folder / thumbnail)
        self._pending.append((entry, future))
        while len(self._pending) > self._max_pending:
            self._write_next()

    def close(self) -> None:
        """Waits for the last thumbnails and writes the page."""
        while self._pending:
            self._write_next()
        self._pool.shutdown()
        self._data.write("];\n")
        self._data.finish()
        page = resources.files("jaxtag.inference.writers").joinpath("gallery.html")
        index = self._folder / "index.html"
        atomic_file.write_text(index, page.read_text("utf-8"), "--gallery")

    def abort(self) -> None:
        """Gives the page up; the next run replaces what there is of it."""
        self._pool.shutdown(cancel_futures=True)
        self._data.close()

    def _write_next(self) -> None:
        entry, future = self._pending.popleft()
        try:
            if not future.result():
                entry["thumbnail"] = ""
        except OSError as error:
            raise write_error(self._folder, error, "--gallery") from error
        self._data.write(json.dumps(entry) + ",\n")


def _remove_thumbnails(folder: Path) -> None:
    if folder.is_symlink():  # what it leads to is not ours
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _link(path: Path, folder: Path) -> str:
    """The address of an image, relative to the page."""
    relative = os.path.relpath(path, os.path.abspath(folder))
    # "./", so that a name such as `a:b.jpg` is not taken for a scheme.
    return "./" + quote_from_bytes(os.fsencode(relative))


def _write_thumbnail(path: Path, thumbnail: Path) -> bool:
    """Writes the thumbnail of an image; returns False if the image cannot be read (any more)."""
    record = files.read(os.fspath(path))
    if record["error"]:
        return False
    try:
        pixels = decode(record["image"], min_size=_THUMBNAIL_SIZE)
    except DecodeError:
        return False
    height, width = pixels.shape[:2]
    scale = min(1.0, _THUMBNAIL_SIZE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    thumbnail.parent.mkdir(parents=True, exist_ok=True)
    thumbnail.write_bytes(simplejpeg.encode_jpeg(small, quality=_JPEG_QUALITY))
    return True
