"""JSON lines: one object per image, in a file that a killed run can go on with."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from absl import logging

from jaxtag.errors import UserError, printable
from jaxtag.inference.writers.base import Row
from jaxtag.storage import atomic_file
from jaxtag.storage.atomic_file import AppendedFile, AtomicFile


class JsonlWriter:
    """Writes each row as a line of JSON.

    With `settings`, the lines that a killed run left under the file's other name are kept:
    `previous_rows` gives them, and `write` adds to them.

    Args:
        path: the file; it gets this name when the writer is closed.
        settings: what rows depend on, as JSON values; None: begin anew.

    Attributes:
        previous: files of the kept lines -> offset and length of the line, in the order of lines.

    Raises:
        UserError: the lines that are there were made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None):
        self._path = path
        self._settings, self._keeps_settings = _settings_path(path), False
        self._file = AtomicFile(path, "--output", resume=settings is not None)
        self.previous: dict[str, tuple[int, int]] = {}
        if settings is None or self._file.unfinished is None:
            return
        try:
            self._resume(self._file.unfinished, json.loads(json.dumps(settings)))
        except BaseException:
            self._file.close()
            raise

    def previous_rows(self, names: Sequence[str]) -> Iterator[Row]:
        """The kept rows of these files, where they have one."""
        partial = self._file.unfinished
        if not self.previous or partial is None:
            return
        with partial.open("rb") as file:
            for name in names:
                if name in self.previous:
                    yield json.loads(_line(file, *self.previous[name]))

    def write(self, row: Row) -> None:
        """Writes the row of one image."""
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def arrange(self, names: Sequence[str]) -> None:
        """Puts the lines of a resumed file in the order of `names`; lines of others go."""
        partial = self._file.unfinished
        if not self.previous or partial is None:
            return
        lines, _ = _index(partial)
        if list(lines) != list(names):
            with partial.open("rb") as file:
                self._file.replace(_line(file, *lines[name]) for name in names if name in lines)

    def close(self, keep_settings: bool = False) -> None:
        """Gives the file its name.

        Args:
            keep_settings: so that `is_finished` can tell how it was made.
        """
        self._file.finish()
        self._keeps_settings = keep_settings
        if not keep_settings:
            with contextlib.suppress(OSError):  # without lines nobody reads them
                self._settings.unlink()

    def abort(self) -> None:
        """Gives the file up; what was written keeps another name."""
        self._file.close()
        partial = self._file.unfinished
        with contextlib.suppress(OSError):  # of storage that fails: no line is lost
            if partial is not None and not (partial.exists() and partial.stat().st_size):
                partial.unlink(missing_ok=True)
                if not self._keeps_settings:
                    self._settings.unlink(missing_ok=True)

    def _resume(self, partial: Path, settings: dict[str, Any]) -> None:
        saved = _read_settings(self._settings)
        lines, size = _index(partial) if self._file.resumed else ({}, 0)
        if lines and saved is None:
            logging.warning("%s does not say how it was made: begun anew", printable(str(partial)))
            self._file.truncate(0)
        elif lines and saved != settings:
            assert saved is not None
            raise _other_settings(self._path, partial, len(lines), saved, settings)
        else:
            if self._file.resumed:
                self._file.truncate(size)  # what a failing disk or power left is made anew
            self.previous = lines
        atomic_file.write_text(self._settings, json.dumps(settings, indent=1) + "\n", "--output")


class GrowingJsonlWriter:
    """Adds each row as a line of JSON to a file that is never finished, whose lines are kept.

    Args:
        path: the file, new or of an earlier run.
        settings: what rows depend on, as JSON values.

    Attributes:
        previous: files of the kept lines.

    Raises:
        UserError: the lines that are there were made with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self._file = AppendedFile(path, "--output")
        try:
            lines, size = _index(self._file.path)
            if size < self._file.path.stat().st_size:
                raise UserError(f"--output={path} is damaged at byte {size}: no line of annotate")
            self.previous = set(lines)
            settings = json.loads(json.dumps(settings))
            settings_path = _settings_path(path)
            saved = _read_settings(settings_path) or settings  # an ordinary run leaves none
            if self.previous and saved != settings:
                raise _other_settings(path, path, len(self.previous), saved, settings)
            atomic_file.write_text(settings_path, json.dumps(settings, indent=1) + "\n", "--output")
        except BaseException:
            self._file.close()
            raise

    def write(self, row: Row) -> None:
        """Writes the row of one image."""
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def abort(self) -> None:
        """Closes the file."""
        self._file.close()


def is_finished(path: Path, settings: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether a file has the lines of these images, made with these settings, in order."""
    if not path.is_file() or _read_settings(_settings_path(path)) != json.loads(
        json.dumps(settings)
    ):
        return False
    lines, _ = _index(path)
    return list(lines) == list(names)


def _settings_path(output: Path) -> Path:
    return output.parent / f".{output.name}.settings"


def _other_settings(
    output: Path,
    file: Path,
    num_lines: int,
    saved: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> UserError:
    return UserError(
        f"--output={output}: {file} has {num_lines:,} lines of a run with other settings: "
        f"{_differences(saved, settings)}. Give the same to go on, or delete "
        "that file to begin anew"
    )


def _read_settings(path: Path) -> dict[str, Any] | None:
    try:
        saved = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return saved if isinstance(saved, dict) else None


def _differences(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    before, after = _flat(saved), _flat(settings)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    name = names[0]
    more = f" (and {', '.join(names[1:4])}{', …' * (len(names) > 4)})" if len(names) > 1 else ""
    return f"{name} was {_value(before.get(name))} and is {_value(after.get(name))}{more}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings without sections: `section.name` -> value."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return flat


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " at ".join(map(str, value))
    return "not given" if value in (None, {}) else str(value)


def _index(path: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """The file of each line -> its offset and length; and the bytes of sound lines."""
    lines: dict[str, tuple[int, int]] = {}
    offset = 0
    with path.open("rb") as file:
        for line in file:
            try:
                lines[json.loads(line)["file"]] = (offset, len(line))
            except (ValueError, KeyError, TypeError):
                break
            offset += len(line)
    return lines, offset


def _line(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
