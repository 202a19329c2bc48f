"""The files of a tag index: vectors, and a journal of the images and their tags.

    INDEX/manifest.json       what the vectors are, and which journal is current
    INDEX/journal-N.jsonl     one change per line: added, removed, tagged, untagged
    INDEX/vectors-*.npy       float32 [n, D], of one addition each, never modified

Vectors are written atomically before the journal's line that names them; a line counts once it ends
with a line feed. So a process that is killed at any time leaves the index as it was before or after
its change. The next change removes unfinished files.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from jaxtag.errors import UserError
from jaxtag.storage import atomic_file

_FORMAT = 1
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class ImageEntry:
    """An image in the index."""

    file: str
    tags: tuple[str, ...]


class IndexStorage:
    """Images by row, in the order in which they were added; a removed one leaves a gap.

    Args:
        folder: of an index that `create` made.

    Attributes:
        folder: as given.
        description: JSON that says how the vectors are made, as given to `create`.

    Raises:
        UserError: there is no index, or it is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.refresh()

    @classmethod
    def create(cls, folder: Path, description: dict[str, Any]) -> "IndexStorage":
        """Creates an empty index; `description` (JSON) says how its vectors are made."""
        folder = Path(folder)
        if (folder / _MANIFEST).exists():
            raise UserError(f"{folder} holds an index already: add to it, or take another folder")
        manifest = {"format": _FORMAT, "journal": 1, "vectors": description}
        atomic_file.write_bytes(folder / _MANIFEST, _json_bytes(manifest), sync=True)
        return cls(folder)

    def refresh(self) -> None:
        """Reads the files again."""
        self._manifest = _read_manifest(self.folder)
        self.description: dict[str, Any] = self._manifest["vectors"]
        self._entries: list[ImageEntry | None] = []
        self._rows: dict[str, int] = {}  # by file
        self._tag_names: dict[str, None] = {}  # an ordered set
        self._vector_files: list[tuple[str, int]] = []  # (name, number of vectors)
        self._bytes_read = 0
        for number, line in enumerate(self._complete_lines(), start=1):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                place = f"{self._journal}, line {number}"
                raise UserError(f"{place}: damaged ({error}); restore it from a copy") from error
            self._bytes_read += len(line) + 1

    def __contains__(self, file: object) -> bool:
        return file in self._rows

    @property
    def entries(self) -> list[ImageEntry | None]:
        """The images by row; None where one was removed."""
        return self._entries

    @property
    def files(self) -> dict[str, int]:
        """The rows of the images that were not removed, by file."""
        return self._rows

    @property
    def tag_names(self) -> list[str]:
        """The names of all tags, in the order in which they were added."""
        return list(self._tag_names)

    def tags(self) -> csr_array:
        """The tag matrix, float32 [rows, tags]: 1 where an image has a tag."""
        columns = {name: column for column, name in enumerate(self._tag_names)}
        rows = [[columns[tag] for tag in e.tags] if e else [] for e in self._entries]
        starts = np.cumsum([0, *map(len, rows)])
        indices = np.fromiter((column for row in rows for column in row), np.int64, starts[-1])
        ones = np.ones(starts[-1], np.float32)
        return csr_array((ones, indices, starts), shape=(len(rows), len(columns)))

    def vectors(self) -> Iterator[np.ndarray]:
        """Yields all rows in order as arrays float32 [n, D], memory-mapped."""
        for name, count in self._vector_files:
            path = self.folder / name
            try:
                vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UserError(f"{path} is missing or damaged: {error}") from error
            if vectors.shape[:1] != (count,) or vectors.dtype != np.float32 or vectors.ndim != 2:
                raise UserError(f"{path} is damaged: not float32 [{count}, D]")
            yield vectors

    def add(self, files: Sequence[str], vectors: np.ndarray, tags: Sequence[Iterable[str]]) -> None:
        """Adds images. Raises UserError where one exists already, or is given twice."""
        entries = [[f, list(dict.fromkeys(t))] for f, t in zip(files, tags, strict=True)]
        with self._changing():
            existing = set(self._rows)
            for file in files:
                if file in existing:
                    raise UserError(f"{file} is in the index already: remove it first")
                existing.add(file)
            name = self._write_vectors(vectors)
            self._append({"do": "add", "vectors": name, "pictures": entries})

    def remove(self, files: Iterable[str]) -> list[int]:
        """Removes images and returns their rows. Raises UserError where one does not exist."""
        with self._changing():
            rows = self._rows_of(files)
            self._append({"do": "remove", "rows": rows})
        return rows

    def tag(self, name: str, files: Iterable[str]) -> None:
        """Adds a tag, which may be new, to images. Raises UserError where one does not exist."""
        with self._changing():
            self._append({"do": "tag", "tag": name, "rows": self._rows_of(files)})

    def untag(self, name: str, files: Iterable[str] | None = None) -> None:
        """Removes a tag from images; without `files` from all, and from the list of tags.

        Raises:
            UserError: there is no such tag or image.
        """
        with self._changing():
            if name not in self._tag_names:
                raise UserError(f"{self.folder} has no tag {name!r}")
            rows = None if files is None else self._rows_of(files)
            self._append({"do": "untag", "tag": name, "rows": rows})

    def compact(self) -> None:
        """Rewrites the index without removed images: rows change, gaps close."""
        with self._changing():
            lines: list[dict[str, Any]] = [{"do": "name", "tags": self.tag_names}]
            start = 0
            for vectors in self.vectors():
                entries = self._entries[start : start + len(vectors)]
                start += len(vectors)
                rows = [row for row, entry in enumerate(entries) if entry]
                if rows:
                    pictures = [[entry.file, list(entry.tags)] for entry in entries if entry]
                    name = self._write_vectors(vectors[rows])
                    lines.append({"do": "add", "vectors": name, "pictures": pictures})
            manifest = {**self._manifest, "journal": self._manifest["journal"] + 1}
            content = b"".join(map(_json_bytes, lines))
            atomic_file.write_bytes(self.folder / _journal_name(manifest), content, sync=True)
            atomic_file.write_bytes(self.folder / _MANIFEST, _json_bytes(manifest), sync=True)
            self.refresh()
            self._remove_stray_files()

    @property
    def _journal(self) -> Path:
        return self.folder / _journal_name(self._manifest)

    def _complete_lines(self) -> list[bytes]:
        try:
            content = self._journal.read_bytes()
        except FileNotFoundError:
            return []
        return content.split(b"\n")[:-1]

    def _apply(self, change: dict[str, Any]) -> None:
        """Applies one line of the journal."""
        kind = change["do"]
        if kind == "add":
            self._vector_files.append((change["vectors"], len(change["pictures"])))
            for file, tags in change["pictures"]:
                self._rows[file] = len(self._entries)
                self._entries.append(ImageEntry(file, tuple(tags)))
                self._tag_names |= dict.fromkeys(tags)
        elif kind == "remove":
            for row in change["rows"]:
                del self._rows[self._entry(row).file]
                self._entries[row] = None
        elif kind == "tag":
            self._tag_names[change["tag"]] = None
            for row in change["rows"]:
                self._set_tags(row, dict.fromkeys([*self._entry(row).tags, change["tag"]]))
        elif kind == "untag":
            everywhere = change["rows"] is None
            for row in self._rows.values() if everywhere else change["rows"]:
                self._set_tags(row, (t for t in self._entry(row).tags if t != change["tag"]))
            if everywhere:
                del self._tag_names[change["tag"]]
        elif kind == "name":
            self._tag_names |= dict.fromkeys(change["tags"])
        else:
            raise ValueError(f"unknown change {kind!r}")

    def _entry(self, row: int) -> ImageEntry:
        entry = self._entries[row]
        if entry is None:
            raise ValueError(f"row {row} was removed")
        return entry

    def _set_tags(self, row: int, tags: Iterable[str]) -> None:
        self._entries[row] = ImageEntry(self._entry(row).file, tuple(tags))

    def _rows_of(self, files: Iterable[str]) -> list[int]:
        files = list(dict.fromkeys(files))
        for file in files:
            if file not in self._rows:
                raise UserError(f"{file} is not in the index {self.folder}")
        return [self._rows[file] for file in files]

    def _append(self, change: dict[str, Any]) -> None:
        line = _json_bytes(change)
        with open(self._journal, "ab") as file:
            file.truncate(self._bytes_read)  # drops the partial line of a killed process
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._apply(change)
        self._bytes_read += len(line)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the lock of the folder. Raises UserError if another process changed the index."""
        with (
            _os_error_as_user_error(self.folder),
            open(self.folder / ".lock", "a", encoding="utf-8") as file,
        ):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is changing {self.folder}: wait until it is done"
                ) from None
            if self._has_changed():
                raise UserError(f"another process has changed {self.folder}: open it again")
            self._remove_stray_files()
            yield

    def _has_changed(self) -> bool:
        if _read_manifest(self.folder) != self._manifest:
            return True
        return sum(len(line) + 1 for line in self._complete_lines()) != self._bytes_read

    def _write_vectors(self, vectors: np.ndarray) -> str:
        """Writes vectors to a new file, whose name it returns."""
        name = f"vectors-{uuid.uuid4().hex}.npy"
        with (
            atomic_file.replacing(self.folder / name, sync=True) as partial,
            open(partial, "wb") as file,
        ):
            np.save(file, np.ascontiguousarray(vectors, np.float32), allow_pickle=False)
        return name

    def _remove_stray_files(self) -> None:
        """Removes the files of killed processes and of before `compact`."""
        named = {name for name, _ in self._vector_files} | {self._journal.name}
        for pattern in ("vectors-*", "journal-*", "*.partial"):
            for path in self.folder.glob(pattern):
                if path.name not in named:
                    path.unlink()


def _journal_name(manifest: dict[str, Any]) -> str:
    return f"journal-{manifest['journal']}.jsonl"


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no index: python -m jaxtag.index build makes one"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise UserError(f"{path} is damaged, or of another version of jaxtag")
    return manifest


def _json_bytes(content: Any) -> bytes:
    # A byte of a file name that is not UTF-8 is half of a surrogate pair: \udcXX in JSON.
    return json.dumps(content).encode() + b"\n"


@contextlib.contextmanager
def _os_error_as_user_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
