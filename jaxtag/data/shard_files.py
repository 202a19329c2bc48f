"""Tars of WebDataset and Parquet files as sources, read where they lie, without being prepared.

`config.data.dataset = "tar:PATTERN"` or `"parquet:PATTERN"` names the files, in which `{split}`
stands for the split: `tar:/data/{split}-*.tar`. Records have numbers, as in a prepared data set, so
that every order, exact resumption and sharing over processes hold. In a tar any record is found at
once. A Parquet file is read by row groups: take `config.data.shuffle=blocks`.
"""

import abc
import functools
import glob
import hashlib
import json
import os
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxtag.data.arrow_errors import arrow_errors
from jaxtag.data.sources import Record, RecordSource
from jaxtag.errors import UserError
from jaxtag.storage.local_cache import cached_arrays

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_TEXTS = ("txt", "caption", "cls", "json")
# Names that fields have in such files -> those of a record.
_FIELDS = {
    **dict.fromkeys(("captions", "caption", "text", "txt", "sentences"), "captions"),
    **dict.fromkeys(("label", "cls", "class", "fine_label"), "label"),
    "tags": "tags",
}
_ROW_GROUPS = 16  # in memory at once


def names_shard_files(dataset: str) -> bool:
    """Whether the name of a data set is `tar:PATTERN` or `parquet:PATTERN`."""
    kind, colon, _ = dataset.partition(":")
    return bool(colon) and kind in _KINDS


def open_shard_files(dataset: str, split: str) -> RecordSource | None:
    """The source that `tar:PATTERN` or `parquet:PATTERN` names; None for another name.

    Raises:
        UserError: no file matches, or one cannot be read.
    """
    if not names_shard_files(dataset):
        return None
    kind, _, pattern = dataset.partition(":")
    paths = sorted(glob.glob(os.path.expanduser(pattern.replace("{split}", split)), recursive=True))
    if not paths:
        raise UserError(f"config.data.dataset = {dataset!r}: no file matches for {split!r}")
    return ShardSource(_KINDS[kind](paths), f"{dataset} ({split})")


class ShardRecords(abc.ABC):
    """The records of files, one file after the other; a `DataSource`, picklable.

    Attributes:
        paths: the files.
        class_names_of: names of the labels, where the files declare them.
    """

    class_names_of: dict[str, list[str]]

    def __init__(self, paths: Sequence[str], counts: Sequence[int]):
        self.paths = list(paths)
        self._ends = np.cumsum(counts)
        self.class_names_of = {}
        if not len(self):
            raise UserError(f"{self.paths[0]} and {len(self.paths) - 1} other files hold no images")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        return [self._read(*self._locate(index), with_image=True) for index in indices]

    def iter_fields(self) -> Iterator[Record]:
        """Yields the records in order without their images."""
        for index in range(len(self)):
            yield self._read(*self._locate(index), with_image=False)

    def _locate(self, index: int) -> tuple[int, int]:
        """(file, record in it)."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, int(index - (self._ends[number - 1] if number else 0))

    @abc.abstractmethod
    def _read(self, number: int, row: int, *, with_image: bool) -> Record:
        """A record of a file."""


class TarRecords(ShardRecords):
    """Examples of WebDataset: `KEY.jpg` with `KEY.txt`, `KEY.cls` or `KEY.json` beside it.

    The places of the members are found once and kept in the user's cache.
    """

    def __init__(self, paths: Sequence[str]):
        self._indices = [cached_arrays("tar", path, _index_tar) for path in paths]
        super().__init__(paths, [len(index["image"]) for index in self._indices])

    def _read(self, number: int, row: int, *, with_image: bool) -> Record:
        index, path = self._indices[number], self.paths[number]
        record: Record = {"file": f"{path}/{index['key'][row].decode('utf-8', 'replace')}"}
        if with_image:
            record["image"] = _read_at(path, *index["image"][row])
        for ending in _TEXTS:
            if index[ending][row, 1] >= 0:
                text = _read_at(path, *index[ending][row]).decode("utf-8", "replace").strip()
                record |= _fields_of_text(ending, text, record["file"])
        return record


class ParquetRecords(ShardRecords):
    """Rows of Parquet files with a column of encoded images, as Hugging Face's data sets have.

    The image is in `image`, as bytes or as a structure with `bytes`; captions are in `captions`,
    `caption` or `text`, a class in `label`, tags in `tags`.
    """

    def __init__(self, paths: Sequence[str]):
        import pyarrow.parquet

        metadata = [_parquet(path).metadata for path in paths]
        super().__init__(paths, [item.num_rows for item in metadata])
        self._group_ends = [
            np.cumsum([item.row_group(group).num_rows for group in range(item.num_row_groups)])
            for item in metadata
        ]
        schema = pyarrow.parquet.read_schema(paths[0])
        self._columns = {name: _FIELDS[name] for name in schema.names if name in _FIELDS}
        if "image" not in schema.names:
            raise UserError(f"{paths[0]} has no column 'image' (it has: {', '.join(schema.names)})")
        self.class_names_of = _declared_names(schema, self._columns)
        self._start()

    def _start(self) -> None:
        self._groups: OrderedDict[tuple[int, int, bool], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_groups"], state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _read(self, number: int, row: int, *, with_image: bool) -> Record:
        ends = self._group_ends[number]
        group = int(np.searchsorted(ends, row, side="right"))
        table = self._group(number, group, with_image)
        index = row - int(ends[group - 1] if group else 0)
        record: Record = {"file": f"{self.paths[number]}/{row}"}
        for column, field in self._columns.items():
            value = table[column][index].as_py()
            record[field] = [value] if field == "captions" and isinstance(value, str) else value
        if with_image:
            image = table["image"][index].as_py()
            record["image"] = (image["bytes"] if isinstance(image, dict) else image) or b""
        return record

    def _group(self, number: int, group: int, with_image: bool) -> Any:
        key = (number, group, with_image)
        with self._lock:
            table = self._groups.pop(key, None)
            if table is None:
                columns = [*self._columns, *(["image"] if with_image else [])]
                path = self.paths[number]
                with arrow_errors(path):
                    table = _parquet(path).read_row_group(group, columns=columns)
            self._groups[key] = table
            if len(self._groups) > _ROW_GROUPS:
                self._groups.popitem(last=False)
        return table


class ShardSource(RecordSource):
    """A `Source` of the records of tars or Parquet files."""

    def __init__(self, records: ShardRecords, name: str):
        super().__init__(records, _read_items, records.class_names_of)
        self.name = name

    def iter_fields(self, fields: Sequence[str]) -> Iterator[Record]:
        """Yields the records in order, without their images."""
        if "image" in fields:
            yield from super().iter_fields(fields)
            return
        for record in self._records.iter_fields():
            if missing := [name for name in fields if name not in record]:
                raise UserError(f"{record['file']} of {self.name} has no {missing[0]}")
            yield record

    def fingerprint(self) -> dict[str, Any]:
        """The names and sizes of the files, from which other data are told."""
        files = [(os.path.basename(path), os.path.getsize(path)) for path in self._records.paths]
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
        return {"dataset": self.name, "examples": len(self), "digest": digest}


def _read_items(records: ShardRecords, indices: Sequence[int]) -> list[Record]:
    """The records at some indices; a function with a name, which can be pickled."""
    return records.__getitems__(indices)


_KINDS: dict[str, type[Any]] = {"tar": TarRecords, "parquet": ParquetRecords}


def _index_tar(path: str) -> dict[str, np.ndarray]:
    """Of each example: its key, and (offset, size) of its image and texts, size -1 where absent."""
    examples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, slash, base = member.name.rpartition("/")
                stem, _, ending = base.partition(".")
                ending = "image" if ending.lower() in _IMAGES else ending.lower()
                if member.isreg() and ending in ("image", *_TEXTS):
                    span = (member.offset_data, member.size)
                    examples.setdefault(folder + slash + stem, {}).setdefault(ending, span)
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read as a tar without compression: {error}") from error
    examples = {key: spans for key, spans in examples.items() if "image" in spans}
    keys = [key.encode("utf-8", "surrogateescape") for key in examples]
    spans = {
        name: np.array([parts.get(name, (0, -1)) for parts in examples.values()], np.int64).reshape(
            -1, 2
        )
        for name in ("image", *_TEXTS)
    }
    return {"key": np.array(keys, dtype=np.bytes_), **spans}


def _fields_of_text(ending: str, text: str, file: str) -> Record:
    """What a text beside an image says of it."""
    if ending == "cls":
        return {"label": int(text) if text.isdecimal() else text}
    if ending != "json":
        return {"captions": [line for line in text.splitlines() if line.strip()]}
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file}.json is damaged: {error}") from error
    record: Record = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        field = _FIELDS.get(name)
        if field == "captions" and isinstance(value, str):
            value = [value]
        if field and value is not None:
            record[field] = value
    return record


def _declared_names(schema: Any, columns: dict[str, str]) -> dict[str, list[str]]:
    """The names of labels in the description that Hugging Face's datasets store."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    names = {}
    for column, field in columns.items():
        feature = features.get(column, {})
        if isinstance(feature, dict) and isinstance(feature.get("names"), list):
            names[field] = list(feature["names"])
    return names


def _read_at(path: str, offset: int, size: int) -> bytes:
    data = os.pread(_open(path), int(size), int(offset))
    if len(data) < size:
        raise UserError(f"{path} is cut off: it was longer when it was first read")
    return data


@functools.lru_cache(maxsize=512)
def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _parquet(path: str) -> Any:
    import pyarrow.parquet

    with arrow_errors(path):
        return pyarrow.parquet.ParquetFile(path)
