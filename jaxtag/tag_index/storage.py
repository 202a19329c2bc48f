"""The files of a tag index: vectors, whose they are, and a journal of what happened to them.

    INDEX/manifest.json       what the vectors are, and which journal holds
    INDEX/journal-N.jsonl     one change a line: added, removed, tagged, untagged
    INDEX/vectors-*.npy       float32 [n, D], of one addition each, never written again

Vectors are written beside and renamed before the journal's line that names them; a line counts once
it ends with a line feed. So a process that is killed, whenever, leaves the index as it was before
its change or after it. What it left half done is removed by the next change.
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

_FORMAT = 1
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class ImageEntry:
    """A picture in the index."""

    file: str
    tags: tuple[str, ...]


class IndexStorage:
    """Pictures by row number, in the order in which they came; a removed one leaves a gap.

    Args:
      folder: of an index that `create` made.

    Raises:
      UserError: there is none, or it is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.refresh()

    @classmethod
    def create(cls, folder: Path, description: dict[str, Any]) -> "IndexStorage":
        """An empty index; `description` (JSON) says how its vectors come about."""
        folder = Path(folder)
        if (folder / _MANIFEST).exists():
            raise UserError(f"{folder} holds an index already: add to it, or take another folder")
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            manifest = {"format": _FORMAT, "journal": 1, "vectors": description}
            _write_atomically(folder / _MANIFEST, _json_bytes(manifest))
        return cls(folder)

    def refresh(self) -> None:
        """Reads the files anew."""
        self._manifest = _read_manifest(self.folder)
        self.description = self._manifest["vectors"]
        self._pictures: list[ImageEntry | None] = []
        self._rows: dict[str, int] = {}
        self._names: dict[str, None] = {}
        self._files: list[tuple[str, int]] = []
        self._read = 0
        for number, line in enumerate(self._complete_lines(), start=1):
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                where = f"{self._journal}, line {number}"
                raise UserError(f"{where}: damaged ({error}); restore it from a copy") from error
            self._read += len(line) + 1

    def __contains__(self, file: object) -> bool:
        return file in self._rows

    @property
    def pictures(self) -> list[ImageEntry | None]:
        """By row number; None where one was removed."""
        return self._pictures

    @property
    def files(self) -> dict[str, int]:
        """File -> row number, of pictures that are there."""
        return self._rows

    @property
    def tag_names(self) -> list[str]:
        """In the order in which they came."""
        return list(self._names)

    def tags(self) -> csr_array:
        """Who has which tag: float32 [rows, tags]."""
        places = {name: place for place, name in enumerate(self._names)}
        of_row = [[places[t] for t in p.tags] if p else [] for p in self._pictures]
        starts = np.cumsum([0, *map(len, of_row)])
        columns = np.fromiter((c for row in of_row for c in row), np.int64, starts[-1])
        ones = np.ones(starts[-1], np.float32)
        return csr_array((ones, columns, starts), shape=(len(of_row), len(places)))

    def vectors(self) -> Iterator[np.ndarray]:
        """float32 [n, D], all rows in order, mapped into memory."""
        for name, count in self._files:
            path = self.folder / name
            try:
                found = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise UserError(f"{path} is missing or damaged: {error}") from error
            if found.shape[:1] != (count,) or found.dtype != np.float32 or found.ndim != 2:
                raise UserError(f"{path} is damaged: not float32 [{count}, D]")
            yield found

    def add(self, files: Sequence[str], vectors: np.ndarray, tags: Sequence[Iterable[str]]) -> None:
        """Adds pictures. Raises UserError where one is there already, or comes twice."""
        entries = [[f, list(dict.fromkeys(t))] for f, t in zip(files, tags, strict=True)]
        with self._changing():
            known = set(self._rows)
            for file in files:
                if file in known:
                    raise UserError(f"{file} is in the index already: remove it first")
                known.add(file)
            name = f"vectors-{uuid.uuid4().hex}.npy"
            _write_array(self.folder / name, vectors)
            self._append({"do": "add", "vectors": name, "pictures": entries})

    def remove(self, files: Iterable[str]) -> list[int]:
        """Removes pictures; gives their row numbers. Raises UserError where one is not there."""
        with self._changing():
            rows = self._numbers(files)
            self._append({"do": "remove", "rows": rows})
        return rows

    def tag(self, name: str, files: Iterable[str]) -> None:
        """Gives pictures a tag, a new one too. Raises UserError where one is not there."""
        with self._changing():
            self._append({"do": "tag", "tag": name, "rows": self._numbers(files)})

    def untag(self, name: str, files: Iterable[str] | None = None) -> None:
        """Takes a tag from pictures; without `files` from all, and out of the list of tags.

        Raises UserError where there is no such tag or picture.
        """
        with self._changing():
            if name not in self._names:
                raise UserError(f"{self.folder} has no tag {name!r}")
            rows = None if files is None else self._numbers(files)
            self._append({"do": "untag", "tag": name, "rows": rows})

    def compact(self) -> None:
        """Writes the index anew without what was removed: row numbers change, gaps close."""
        with self._changing():
            kept = [number for number, picture in enumerate(self._pictures) if picture]
            pictures = [self._pictures[number] for number in kept]
            lines = [{"do": "name", "tags": self.tag_names}]
            start = 0
            for part in self.vectors():
                inside = [n - start for n in kept if start <= n < start + len(part)]
                start += len(part)
                if inside:
                    name = f"vectors-{uuid.uuid4().hex}.npy"
                    _write_array(self.folder / name, part[inside])
                    entries = [[p.file, list(p.tags)] for p in pictures[: len(inside)]]
                    pictures = pictures[len(inside) :]
                    lines.append({"do": "add", "vectors": name, "pictures": entries})
            manifest = {**self._manifest, "journal": self._manifest["journal"] + 1}
            content = b"".join(map(_json_bytes, lines))
            _write_atomically(self.folder / _journal_name(manifest), content)
            _write_atomically(self.folder / _MANIFEST, _json_bytes(manifest))
            self.refresh()
            self._remove_strays()

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
        """One line of the journal."""
        kind = change["do"]
        if kind == "add":
            self._files.append((change["vectors"], len(change["pictures"])))
            for file, tags in change["pictures"]:
                self._rows[file] = len(self._pictures)
                self._pictures.append(ImageEntry(file, tuple(tags)))
                self._names |= dict.fromkeys(tags)
        elif kind == "remove":
            for row in change["rows"]:
                del self._rows[self._pictures[row].file]
                self._pictures[row] = None
        elif kind == "tag":
            self._names[change["tag"]] = None
            for row in change["rows"]:
                tags = dict.fromkeys([*self._pictures[row].tags, change["tag"]])
                self._set_tags(row, tags)
        elif kind == "untag":
            everywhere = change["rows"] is None
            for row in self._rows.values() if everywhere else change["rows"]:
                self._set_tags(row, (t for t in self._pictures[row].tags if t != change["tag"]))
            if everywhere:
                del self._names[change["tag"]]
        elif kind == "name":
            self._names |= dict.fromkeys(change["tags"])
        else:
            raise ValueError(f"unknown change {kind!r}")

    def _set_tags(self, row: int, tags: Iterable[str]) -> None:
        self._pictures[row] = ImageEntry(self._pictures[row].file, tuple(tags))

    def _numbers(self, files: Iterable[str]) -> list[int]:
        files = list(dict.fromkeys(files))
        for file in files:
            if file not in self._rows:
                raise UserError(f"{file} is not in the index {self.folder}")
        return [self._rows[file] for file in files]

    def _append(self, change: dict[str, Any]) -> None:
        line = _json_bytes(change)
        with open(self._journal, "ab") as file:
            file.truncate(self._read)  # half a line that a killed process left
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._apply(change)
        self._read += len(line)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Holds the lock of the folder; what others changed meanwhile is read first."""
        with _told(self.folder), open(self.folder / ".lock", "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is changing {self.folder}: wait until it is done"
                ) from None
            if self._has_changed():
                raise UserError(f"another process has changed {self.folder}: open it again")
            self._remove_strays()
            yield

    def _has_changed(self) -> bool:
        if _read_manifest(self.folder) != self._manifest:
            return True
        return sum(len(line) + 1 for line in self._complete_lines()) != self._read

    def _remove_strays(self) -> None:
        """What killed processes left, and what was compacted away."""
        named = {name for name, _ in self._files} | {self._journal.name}
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
    # A byte of a file's name that is not UTF-8 is half of a surrogate pair: \udcXX in JSON.
    return json.dumps(content).encode() + b"\n"


def _write_array(path: Path, array: np.ndarray) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        np.save(file, np.ascontiguousarray(array, np.float32), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    _rename(partial, path)


def _write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _rename(partial, path)


def _rename(partial: Path, path: Path) -> None:
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """A full or read-only disk is something that the user can put right."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
