"""Images inside of Parquet and Arrow files, read like the members of an archive.

As Hugging Face's `datasets` writes them: a column of structs {"bytes", "path"}
(https://huggingface.co/docs/datasets/image_process), or of bytes.
"""

import abc
import bisect
import contextlib
import itertools
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from jaxtag.data.arrow_errors import arrow_errors
from jaxtag.datasets.archives import MAX_GROWTH, Archive, ReadError
from jaxtag.datasets.layout import starts_like_image
from jaxtag.datasets.odd_entries import NotATableError
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.errors import UserError

_ROWS = 16  # of a batch that is decoded at once
_CACHED = 8  # batches
_MAX_GROUP_BYTES = 4 << 30
_FREE_GROWTH = 64 << 20
_ENDINGS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
}


class EmbeddedImages(Archive):
    """The images of one file, by the number of their row.

    Attributes:
        schema: The columns of the file.
        column: Name of the column of images.
        names: The name of each row's image, None where there are no bytes.
    """

    schema: pyarrow.Schema
    column: str

    def __init__(self, path: Path, where: str):
        self.path, self._where = path, where
        self.members = []
        self.names: list[str | None] = []
        self._lock = threading.Lock()

    def rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Yields the values of some columns, row by row. Raises UserError where it is damaged."""
        with _readable(self._where):
            yield from self._rows(columns)

    @abc.abstractmethod
    def _rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        """The same, with errors of pyarrow."""

    @abc.abstractmethod
    def _bytes(self, row: int) -> bytes:
        """The encoded image of a row."""

    @abc.abstractmethod
    def _batches(self) -> Iterator[pyarrow.Array]:
        """The column of images, a few rows at a time."""

    def _list(self) -> None:
        """Lists the images, each once: their names, sizes and checksums."""
        taken: set[str] = set()
        number = 0
        for batch in self._batches():
            for value in batch:
                data, written = _parts(value)
                self.names.append(None)
                if data is not None:
                    name = _name(number, written, data, taken)
                    self.names[-1] = name
                    taken.add(name)
                    entry = (number, len(data), zlib.crc32(data).to_bytes(4))
                    self.members.append((name, entry))
                number += 1

    def size(self, entry: tuple[int, int, bytes]) -> int:
        return entry[1]

    def checksum(self, entry: tuple[int, int, bytes]) -> bytes:
        return entry[2]

    def read(self, entry: tuple[int, int, bytes], offset: int, limit: int) -> bytes:
        with self._lock:
            return self._bytes(entry[0])[offset : offset + limit]


class ParquetImages(EmbeddedImages):
    """The images of a Parquet file.

    Raises:
        UserError: The file is damaged. NotATableError: It has no images.
    """

    def __init__(self, source: SourceFiles, name: str):
        super().__init__(Path(name), source.where(name))
        self._file = open_parquet(source, name)
        self.schema = self._file.schema_arrow
        self.column = image_column(self.schema, source.where(name))
        self._cache: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._reader: tuple[int, int, Iterator[Any]] = (-1, 0, iter(()))
        metadata = self._file.metadata
        counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._starts = [0, *itertools.accumulate(counts)]
        with _readable(source.where(name)):
            self._list()

    def _rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        for batch in self._file.iter_batches(batch_size=4096, columns=columns):
            yield from batch.to_pylist()

    def close(self) -> None:
        self._file.close()

    def _batches(self) -> Iterator[pyarrow.Array]:
        for batch in self._file.iter_batches(batch_size=_ROWS, columns=[self.column]):
            yield batch.column(0)

    def _bytes(self, row: int) -> bytes:
        group = bisect.bisect_right(self._starts, row) - 1
        number, inside = divmod(row - self._starts[group], _ROWS)
        while (group, number) not in self._cache:
            read_group, next_number, batches = self._reader
            if read_group != group or next_number > number:
                next_number = 0
                batches = self._file.iter_batches(
                    batch_size=_ROWS, row_groups=[group], columns=[self.column]
                )
            batch = next(batches, None)
            if batch is None:
                raise ValueError("the row group ends before this image")
            self._reader = (group, next_number + 1, batches)
            if next_number == number:
                values = [_parts(value)[0] or b"" for value in batch.column(0)]
                self._cache[group, number] = values
                if len(self._cache) > _CACHED:
                    self._cache.popitem(last=False)
        return self._cache[group, number][inside]


class ArrowImages(EmbeddedImages):
    """The images of an Arrow stream or file, mapped into memory.

    Raises:
        UserError: The file is damaged or packed. NotATableError: It has no images.
    """

    def __init__(self, source: SourceFiles, name: str):
        where = source.where(name)
        super().__init__(Path(name), where)
        path = source.local_path(name)
        if path is None:
            raise UserError(f"{where}: an Arrow file in an archive is not read: unpack it")
        with _readable(where):
            mapped = pyarrow.memory_map(str(path))
            if source.read_prefix(name, 6) == b"ARROW1":
                file = pyarrow.ipc.open_file(mapped)
                batches = [file.get_batch(n) for n in range(file.num_record_batches)]
            else:
                file = pyarrow.ipc.open_stream(mapped)
                batches = list(file)
            for batch in batches:
                batch.validate(full=True)
        self.schema = file.schema
        self.column = image_column(self.schema, where)
        self._record_batches = batches
        self._starts = [0, *itertools.accumulate(batch.num_rows for batch in batches)]
        self._list()

    def _rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        for batch in self._record_batches:
            yield from batch.select(columns).to_pylist()

    def close(self) -> None:
        self._record_batches.clear()

    def _batches(self) -> Iterator[pyarrow.Array]:
        for batch in self._record_batches:
            yield batch.column(self.column)

    def _bytes(self, row: int) -> bytes:
        number = bisect.bisect_right(self._starts, row) - 1
        value = self._record_batches[number].column(self.column)[row - self._starts[number]]
        return _parts(value)[0] or b""


def open_parquet(source: SourceFiles, name: str) -> pyarrow.parquet.ParquetFile:
    """Opens a Parquet file whose row groups fit in memory.

    Raises:
        UserError: It is damaged, packed in a zip, or its row groups are too large.
    """
    where = source.where(name)
    with _readable(where):
        file = pyarrow.parquet.ParquetFile(source.open(name))
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            chunks = [group.column(n) for n in range(group.num_columns)]
            packed = sum(chunk.total_compressed_size for chunk in chunks)
            size = sum(chunk.total_uncompressed_size for chunk in chunks)
            if size > _MAX_GROUP_BYTES:
                raise UserError(
                    f"{where}: a row group has {size / 1e9:,.1f} GB: write it with smaller ones "
                    "(row_group_size=1000)"
                )
            if size > max(MAX_GROWTH * packed, _FREE_GROWTH):
                raise UserError(
                    f"{where}: it grows more than {MAX_GROWTH} times when it is unpacked: refused "
                    "as a decompression bomb"
                )
    return file


def image_column(schema: pyarrow.Schema, where: str) -> str:
    """The column of images: of structs with bytes, or of bytes called after images.

    Raises:
        NotATableError: There is none.
    """
    structs = [
        field.name
        for field in schema
        if pyarrow.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
        and _is_binary(field.type.field("bytes").type)
    ]
    plain = [field.name for field in schema if _is_binary(field.type)]
    names = structs or plain
    preferred = [name for name in names if name.lower() in ("image", "img", "jpg", "png", "bytes")]
    if not names:
        raise NotATableError(f"{where}: it has no column of images")
    return (preferred or names)[0]


def _is_binary(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _parts(value: pyarrow.Scalar) -> tuple[bytes | None, str]:
    """The bytes of an image, None without any, and the path that is written beside them."""
    item = value.as_py()
    if isinstance(item, dict):
        path = item.get("path")
        data = item.get("bytes")
        return (data if data else None), path if isinstance(path, str) else ""
    return (item if item else None), ""


def _name(number: int, written: str, data: bytes, taken: set[str]) -> str:
    """The name of an image: as it was called, or its number."""
    base = written.replace("\\", "/").rpartition("/")[2].strip(". ")
    if base and base not in taken and "\0" not in base:
        return base
    ending = next((end for magic, end in _ENDINGS.items() if data.startswith(magic)), "")
    ending = ending or ("img" if not starts_like_image(data[:16]) else "jpg")
    return f"{number:08}.{ending}"


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turns errors of pyarrow and of the archive around a file into UserErrors that name it."""
    try:
        with arrow_errors(where):
            yield
    except ReadError as error:
        raise UserError(f"{where}: damaged, or of another kind: {error}") from error
