"""A static web page of annotated images, to search, to see what is in doubt and to correct tags.

It needs no server, and opens from a disk, where a page may load scripts but no other files: so the
data are scripts, `data/NNNN.js`, of some thousand images each, which the page loads one after the
other. It builds only what fits the window. File names and tags enter it as text, never as markup.
"""

import contextlib
import hashlib
import json
import math
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
from jaxtag.data.decode import decode
from jaxtag.data.image_reader import DecodeError
from jaxtag.errors import UserError, write_error
from jaxtag.inference.writers.base import Row
from jaxtag.inference.writers.duplicates import DuplicatesWriter
from jaxtag.storage import atomic_file
from jaxtag.storage.atomic_file import AtomicFile

_THUMBNAIL_SIZE = 256  # maximum of the longer side, in pixels
_JPEG_QUALITY = 80
_IMAGES_PER_FILE = 2000
_DATA_FILE = "pictures.js"  # also marks a folder as a gallery


class GalleryWriter:
    """Writes FOLDER/index.html with its data and thumbnails.

    Args:
        folder: new, empty, or a gallery, which is replaced; thumbnails that are newer than their
            images are kept.
        num_threads: threads that make thumbnails.
        duplicates: its groups are shown; it is to be closed first.

    Raises:
        UserError: `folder` holds other files, or cannot be written.
    """

    def __init__(self, folder: Path, num_threads: int, duplicates: DuplicatesWriter | None = None):
        self._folder, self._duplicates = folder, duplicates
        try:
            folder.mkdir(parents=True, exist_ok=True)
            index = folder / _DATA_FILE
            # A killed run leaves the data unfinished.
            is_gallery = index.exists() or bool(atomic_file.stale_partials(index))
            # So does one that failed at its start, with the lock alone.
            others = [path for path in folder.iterdir() if path.name != f".{_DATA_FILE}.lock"]
            if others and not is_gallery:
                raise UserError(f"--gallery={folder} holds other files: name a new folder")
            self._index = AtomicFile(index, "--gallery")  # now no other process writes here
            _unlink_links(folder)
            shutil.rmtree(folder / "data", ignore_errors=True)
        except OSError as error:
            raise write_error(folder, error, "--gallery") from error
        self._pool = ThreadPoolExecutor(num_threads)
        self._pending: deque[tuple[dict[str, Any], Future[bool]]] = deque()
        self._max_pending = 4 * num_threads
        self._entries: list[str] = []  # of the next file
        self._num_files = self._count = 0
        self._thumbnails: set[str] = set()
        self._has_tags = False

    def write(self, row: Row) -> None:
        """Adds one image; one that could not be read is shown as such."""
        self._count += 1
        self._has_tags |= "tags" in row
        path = Path(os.path.abspath(row["file"]))
        name = hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()
        thumbnail = f"thumbnails/{name[:2]}/{name}.jpg"
        entry = {
            "file": row["file"],
            "link": _link(path, self._folder),
            "thumbnail": thumbnail,
            "tags": [[tag["tag"], tag["score"]] for tag in row.get("tags", [])],
            "caption": row.get("caption", ""),
            "error": row.get("error", ""),
            "doubt": round(doubt(row), 3),
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
        self._write_entries()
        groups = [] if self._duplicates is None else self._duplicates.groups
        index = {
            "count": self._count,
            "files": self._num_files,
            "tags": self._has_tags,
            "groups": [[[m.image.file, m.relation] for m in group] for group in groups],
        }
        self._index.write(f"window.GALLERY = {json.dumps(index)};\n")
        self._index.finish()
        self._remove_other_thumbnails()
        page = resources.files("jaxtag.inference.writers").joinpath("gallery.html")
        atomic_file.write_text(self._folder / "index.html", page.read_text("utf-8"), "--gallery")

    def abort(self) -> None:
        """Gives the page up; the next run replaces what there is of it."""
        self._pool.shutdown(cancel_futures=True)
        self._index.close()

    def _write_next(self) -> None:
        entry, future = self._pending.popleft()
        try:
            if future.result():
                self._thumbnails.add(Path(entry["thumbnail"]).name)
            else:
                entry["thumbnail"] = ""
        except OSError as error:
            raise write_error(self._folder, error, "--gallery") from error
        self._entries.append(json.dumps(entry))
        if len(self._entries) == _IMAGES_PER_FILE:
            self._write_entries()

    def _write_entries(self) -> None:
        if self._entries:
            path = self._folder / "data" / f"{self._num_files:04d}.js"
            text = "addImages([\n" + ",\n".join(self._entries) + "\n]);\n"
            atomic_file.write_text(path, text, "--gallery")
            self._num_files += 1
            self._entries = []

    def _remove_other_thumbnails(self) -> None:
        for path in self._folder.glob("thumbnails/*/*"):
            if path.name not in self._thumbnails:
                with contextlib.suppress(OSError):  # the page does not show them
                    path.unlink()


def doubt(row: Row) -> float:
    """How doubtful a prediction is, 0 to 1.

    Of tags, 1 where a score is 0.5, and 0 where all are 0 or 1; of a caption, 1 less the mean
    (geometric) probability of its words.
    """
    if row.get("tags"):
        return max(2 * min(tag["score"], 1 - tag["score"]) for tag in row["tags"])
    if row.get("caption") and row.get("score", 0.0) < 0:
        return 1 - math.exp(row["score"] / len(row["caption"].split()))
    return 0.0


def _unlink_links(folder: Path) -> None:
    """Removes links in the place of our folders: what they lead to is not ours."""
    for name in ("thumbnails", "data"):
        if (folder / name).is_symlink():
            (folder / name).unlink()


def _link(path: Path, folder: Path) -> str:
    """The address of an image, relative to the page."""
    relative = os.path.relpath(path, os.path.abspath(folder))
    # "./", so that a name such as `a:b.jpg` is not taken for a scheme.
    return "./" + quote_from_bytes(os.fsencode(relative))


def _write_thumbnail(path: Path, thumbnail: Path) -> bool:
    """Writes the thumbnail of an image; returns False if the image cannot be read (any more)."""
    if _is_newer(thumbnail, path):
        return True
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
    atomic_file.write_bytes(thumbnail, simplejpeg.encode_jpeg(small, quality=_JPEG_QUALITY))
    return True


def _is_newer(thumbnail: Path, image: Path) -> bool:
    try:
        return thumbnail.stat().st_mtime_ns > image.stat().st_mtime_ns
    except OSError:
        return False
