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
import io
import json
import os
import re
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from jaxtag.errors import UserError, write_error
from jaxtag.storage import atomic_file

_FORMAT = 1
_MANIFEST = "manifest.json"
_BUILDING = "building"  # in the manifest of an index whose images are not all there yet
_VECTOR_FILE = re.compile(r"vectors-[0-9A-Za-z]+\.npy")


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

    _manifest: dict[str, Any]

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.refresh()

    @classmethod
    def create(
        cls, folder: Path, description: dict[str, Any], *, building: bool = False
    ) -> "IndexStorage":
        """Creates an empty index.

        Args:
            folder: where it is stored.
            description: JSON that says how its vectors are made.
            building: it is unfinished until `finish_building`: until then `create` goes on with
                it, with the images that it has.

        Raises:
            UserError: the folder holds a finished index, or one with another description.
        """
        folder = Path(folder)
        if (folder / _MANIFEST).exists():
            old = _read_manifest(folder)
            if not building or not old.get(_BUILDING):
                raise UserError(
                    f"{folder} holds an index already: add to it, or take another folder"
                )
            if old["vectors"] != description:
                raise UserError(
                    f"{folder} holds an unfinished index of other vectors, {old['vectors']}: "
                    "finish that, or take another folder"
                )
            return cls(folder)
        manifest = {"format": _FORMAT, "journal": 1, "vectors": description}
        if building:
            manifest[_BUILDING] = True
        atomic_file.write_bytes(folder / _MANIFEST, _json_bytes(manifest), sync=True)
        return cls(folder)

    def finish_building(self) -> None:
        """Marks the index as finished, where `create` said that it is being built."""
        if self._manifest.get(_BUILDING):
            with self._changing():
                manifest = {n: value for n, value in self._manifest.items() if n != _BUILDING}
                atomic_file.write_bytes(self.folder / _MANIFEST, _json_bytes(manifest), sync=True)
                self._manifest = manifest

    def refresh(self) -> None:
        """Reads the files again."""
        self._manifest = _read_manifest(self.folder)
        self.description: dict[str, Any] = self._manifest["vectors"]
        self._entries: list[ImageEntry | None] = []
        self._rows: dict[str, int] = {}  # by file
        self._tag_names: dict[str, None] = {}  # an ordered set
        # (name, number of vectors, their CRC-32 or None)
        self._vector_files: list[tuple[str, int, int | None]] = []
        self._bytes_read = 0
        for number, line in enumerate(self._complete_lines(), start=1):
            try:
                self._apply(_checked_change(json.loads(line)))
            except (ValueError, KeyError, IndexError, RecursionError) as error:
                location = f"{self._journal}, line {number}"
                reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise UserError(
                    f"{location}: damaged ({reason}); restore it from a copy"
                ) from error
            self._bytes_read += len(line) + 1

    def replace_description(self, description: dict[str, Any]) -> None:
        """Says anew how the vectors are made, such as by a run that was moved."""
        with self._changing():
            manifest = {**self._manifest, "vectors": description}
            atomic_file.write_bytes(self.folder / _MANIFEST, _json_bytes(manifest), sync=True)
            self.refresh()

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
        """Yields all rows in order as arrays float32 [n, D], memory-mapped.

        Raises:
            UserError: a file is missing, cut short, altered, or holds what is no number.
        """
        for name, count, checksum in self._vector_files:
            path = self.folder / name
            try:
                vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            except Exception as error:  # numpy parses a damaged header as Python's source
                raise UserError(f"{path} is missing or damaged: {error}") from error
            if vectors.shape[:1] != (count,) or vectors.dtype != np.float32 or vectors.ndim != 2:
                raise UserError(f"{path} is damaged: not float32 [{count}, D]")
            if checksum is not None and zlib.crc32(np.ascontiguousarray(vectors).data) != checksum:
                raise UserError(f"{path} is damaged: its checksum differs; restore it from a copy")
            if not np.isfinite(vectors).all():
                raise UserError(f"{path} is damaged: it holds NaN or infinity")
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
            written = self._write_vectors(vectors)
            self._append({"do": "add", **written, "pictures": entries})

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
                    written = self._write_vectors(vectors[rows])
                    lines.append({"do": "add", **written, "pictures": pictures})
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
            count, checksum = len(change["pictures"]), change.get("crc32")
            self._vector_files.append((change["vectors"], count, checksum))
            for file, tags in change["pictures"]:
                if file in self._rows:
                    raise ValueError(f"{file} is added twice")
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
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._journal, flags, 0o666), "ab", buffering=0) as file:
            file.truncate(self._bytes_read)  # drops the partial line of a killed process
            try:
                _write_all(file, line)
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # what failed has not happened
                    file.truncate(self._bytes_read)
                raise
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

    def _write_vectors(self, vectors: np.ndarray) -> dict[str, Any]:
        """Writes vectors to a new file; returns its name and checksum, for the journal."""
        name = f"vectors-{uuid.uuid4().hex}.npy"
        vectors = np.ascontiguousarray(vectors, np.float32)
        with (
            atomic_file.replacing(self.folder / name, sync=True) as partial,
            open(partial, "wb", buffering=0) as file,
        ):
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, np.lib.format.header_data_from_array_1_0(vectors)
            )
            _write_all(file, header.getvalue())
            # Not numpy's own writing, whose errors on a full disk give no reason.
            _write_all(file, vectors.reshape(-1).view(np.uint8).data)
        return {"vectors": name, "crc32": zlib.crc32(vectors.data)}

    def _remove_stray_files(self) -> None:
        """Removes the files of killed processes and of before `compact`."""
        named = {name for name, _, _ in self._vector_files} | {self._journal.name}
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
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise UserError(f"{path} is damaged, or of another version of jaxtag")
    journal, description = manifest.get("journal"), manifest.get("vectors")
    if type(journal) is not int or not isinstance(description, dict):
        raise UserError(f"{path} is damaged: it names no journal, or not what the vectors are")
    return manifest


def _checked_change(change: Any) -> dict[str, Any]:
    """A line of the journal, each field of the type that `_apply` expects. Raises ValueError."""

    def require(holds: bool, name: str) -> None:
        if not holds:
            raise ValueError(f"{name!r} is not as it should be")

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    require(isinstance(change, dict), "the line")
    kind = change["do"]
    if kind == "add":
        name, pictures, checksum = change["vectors"], change["pictures"], change.get("crc32")
        # No name leads out of the folder.
        require(isinstance(name, str) and bool(_VECTOR_FILE.fullmatch(name)), "vectors")
        require(checksum is None or type(checksum) is int, "crc32")
        require(isinstance(pictures, list), "pictures")
        for entry in pictures:
            require(isinstance(entry, list) and len(entry) == 2, "pictures")
            require(isinstance(entry[0], str) and texts(entry[1]), "pictures")
    elif kind == "name":
        require(texts(change["tags"]), "tags")
    elif kind in ("remove", "tag", "untag"):
        rows = change["rows"]
        if rows is not None or kind != "untag":
            require(isinstance(rows, list), "rows")
            require(all(type(row) is int and row >= 0 for row in rows), "rows")
        require(kind == "remove" or isinstance(change["tag"], str), "tag")
    return change


def _write_all(file: io.FileIO, data: bytes | memoryview) -> None:
    """Writes all of `data`; the OSError says why where that is not possible."""
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def _json_bytes(content: Any) -> bytes:
    # A byte of a file name that is not UTF-8 is half of a surrogate pair: \udcXX in JSON.
    return json.dumps(content).encode() + b"\n"


@contextlib.contextmanager
def _os_error_as_user_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from error
