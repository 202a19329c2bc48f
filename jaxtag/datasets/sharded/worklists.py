"""Deals the lines of a table to shards, in one pass that holds no line."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from jaxtag.data.text import clean_name
from jaxtag.datasets.base import VALIDATION_FRACTION, hash_fraction
from jaxtag.errors import UserError
from jaxtag.storage import json_files
from jaxtag.storage.atomic_file import write_text

_PLAN, _LISTS, _PROBLEMS = "plan.json", "worklists", "problems.jsonl"
_BUFFER_BYTES = 1 << 16  # of a shard, before they are written
_KINDS = {"captions": "captions", "caption": "captions", "tags": "tags", "label": "label"}
_TAG_FIELDS = ("tags", "unknown_tags")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is written where, fixed before the first image is read.

    Attributes:
        name: of the data set.
        table: the JSON lines that name its images; images are relative to its folder.
        table_state: its size and time of change, by which another table is noticed.
        num_shards: of each split.
        kind: what the lines hold: captions, tags or label.
        label_names: of all tags or classes, sorted; empty for captions.
        splits: the names of the splits, train first.
        folder: for work lists, shards and reports.
    """

    name: str
    table: str
    table_state: list[int]
    num_shards: int
    kind: str
    label_names: list[str]
    splits: list[str]
    folder: str

    @property
    def features(self) -> dict[str, Any]:
        """The fields of a record, in tfds's terms."""
        label = tfds.features.ClassLabel(names=self.label_names)
        labels = tfds.features.Sequence(label)
        kinds = {
            "captions": {"captions": tfds.features.Sequence(tfds.features.Text())},
            "tags": {"tags": labels, "unknown_tags": labels},
            "label": {"label": label},
        }
        fields = {"image": tfds.features.Image(), "file": tfds.features.Text()}
        return {**fields, **kinds[self.kind]}

    def worklist(self, shard: int) -> list[dict[str, Any]]:
        """The entries of a shard, {"file", "split"} and its `kind`, in a random order."""
        path = _worklist_path(Path(self.folder), shard)
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        entries = {entry["file"]: entry for entry in map(json.loads, lines)}
        return sorted(entries.values(), key=lambda entry: _digest(entry["file"]))

    def problems(self) -> Iterator[dict[str, Any]]:
        """The lines of the table that are left out, as the ledger names them."""
        path = Path(self.folder) / _PROBLEMS
        if path.exists():
            with path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)


def make_plan(name: str, table: Path, folder: Path, num_shards: int) -> Plan:
    """The plan in `folder`; where it is of another table or number of shards, a new one.

    Args:
        name: of the data set.
        table: JSON lines: {"file": …} with "captions" (or "caption"), "tags" or "label", and
            "split" if it is not to be drawn: a tenth is held out for validation then.
        folder: for work lists, shards and reports.
        num_shards: of each split.

    Raises:
        UserError: the table cannot be read, or no line of it can be used.
    """
    try:
        state = table.stat()
    except OSError as error:
        raise UserError(f"--source={table}: {error.strerror}") from error
    table_state = [state.st_size, state.st_mtime_ns]
    path = folder / _PLAN
    if path.exists():
        plan = Plan(**json_files.read(path))
        if (plan.table, plan.table_state, plan.num_shards) == (str(table), table_state, num_shards):
            return plan
    shutil.rmtree(folder, ignore_errors=True)
    (folder / _LISTS).mkdir(parents=True)
    kind, label_names, splits = _deal(table, folder, num_shards)
    order = sorted(splits, key=lambda split: (split != "train", split))
    plan = Plan(
        name, str(table), table_state, num_shards, kind, sorted(label_names), order, str(folder)
    )
    write_text(path, json.dumps(dataclasses.asdict(plan)))
    return plan


def _deal(table: Path, folder: Path, num_shards: int) -> tuple[str, set[str], set[str]]:
    """Writes the work lists; returns the kind of the table, its labels and its splits."""
    kinds: set[str] = set()
    label_names: set[str] = set()
    splits: set[str] = set()
    buffers = _Buffers(folder)
    with table.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            entry, kind = _parse(line)
            if entry is None or (kinds and kind not in kinds):
                reason = (
                    kind if entry is None else f"it has {kind}, where others have {kinds.pop()}"
                )
                problem = {"split": "", "file": f"{table.name}:{number}", "reason": reason}
                buffers.add(folder / _PROBLEMS, problem)
                continue
            kinds.add(kind)
            splits.add(entry["split"])
            if kind == "label":
                label_names.add(entry["label"])
            elif kind == "tags":
                label_names.update(entry["tags"], entry["unknown_tags"])
            shard = int.from_bytes(_digest(entry["file"])[-8:], "big") % num_shards
            buffers.add(_worklist_path(folder, shard), entry)
    buffers.flush()
    if not kinds:
        raise UserError(
            f'{table}: no line can be used; a line is {{"file": …, "captions": […]}}, or has '
            '"tags" or "label"'
        )
    return kinds.pop(), label_names, splits


def _parse(line: str) -> tuple[dict[str, Any] | None, str]:
    """(entry, kind) of a line; (None, reason) of one that cannot be used."""
    try:
        row = json.loads(line)
    except ValueError as error:
        return None, f"no JSON: {error}"
    if not isinstance(row, Mapping) or not isinstance(row.get("file"), str) or not row["file"]:
        return None, 'no object with a "file"'
    names = [name for name in _KINDS if name in row]
    if len(names) != 1:
        return None, f"exactly one of {', '.join(_KINDS)} must be there"
    kind = _KINDS[names[0]]
    texts = {name: row[name] for name in (names[0], "unknown_tags") if name in row}
    texts = {name: [value] if isinstance(value, str) else value for name, value in texts.items()}
    for name, value in texts.items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            return None, f'"{name}" must be a list of texts'
    value = texts[names[0]]
    fields: dict[str, Any] = {"captions": value}
    if kind == "tags":
        tags, unknown = (
            list(dict.fromkeys(map(clean_name, texts.get(name, ())))) for name in _TAG_FIELDS
        )
        fields = {"tags": tags, "unknown_tags": [name for name in unknown if name not in tags]}
    elif kind == "label":
        if len(value) != 1:
            return None, '"label" must be one text'
        fields = {"label": clean_name(value[0])}
    split = row.get("split") or _drawn_split(row["file"])
    if not isinstance(split, str) or not split.isidentifier():
        return None, f"{split!r} cannot be the name of a split"
    return {"file": row["file"], "split": split, **fields}, kind


def _drawn_split(file: str) -> str:
    return "validation" if hash_fraction(file) < VALIDATION_FRACTION else "train"


class _Buffers:
    """Lines for many files, written some at a time."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._lines: dict[Path, list[str]] = {}
        self._sizes: dict[Path, int] = {}

    def add(self, path: Path, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        self._lines.setdefault(path, []).append(line)
        self._sizes[path] = self._sizes.get(path, 0) + len(line)
        if self._sizes[path] > _BUFFER_BYTES:
            self._write(path)

    def flush(self) -> None:
        for path in self._lines:
            self._write(path)

    def _write(self, path: Path) -> None:
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.writelines(self._lines[path])
        self._lines[path], self._sizes[path] = [], 0


def _worklist_path(folder: Path, shard: int) -> Path:
    return folder / _LISTS / f"{shard:05}.jsonl"


def _digest(file: str) -> bytes:
    return hashlib.sha256(b"order " + file.encode("utf-8", "replace")).digest()
