"""The fields of prepared records besides their images, as columns in a file beside each shard.

Captions, labels and tags of millions of records are read from them in seconds, where the records
themselves hold the images too. `VERSION/columns/SHARD.parquet` has the records of the shard in
their order. Data sets that were prepared without them are read record by record.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds

from jaxtag.data.arrow_errors import arrow_errors
from jaxtag.data.range_reader import RangeReader
from jaxtag.data.record_parser import make_parser
from jaxtag.storage.atomic_file import replacing

if TYPE_CHECKING:
    import pyarrow

FOLDER = "columns"
_CHUNK = 8192  # records in memory at once


def write_columns(folder: Path) -> None:
    """Writes the columns of all shards of a prepared version.

    Args:
        folder: `DATA_DIR/<dataset>/<version>`.
    """
    info = tfds.builder_from_directory(folder).info
    (folder / FOLDER).mkdir()
    for split in info.splits.values():
        for shard in split.file_instructions:
            path = columns_path(folder, shard.filename)
            write_columns_of_shard(path, shard, info.features)


def write_columns_of_shard(path: Path, shard: Any, features: Mapping[str, Any]) -> None:
    """Writes the columns of a shard of records, which are read from it.

    Args:
        path: The file of the columns.
        shard: The shard's file instruction of tfds: `filename`, `skip`, `take`.
        features: Of the records.
    """
    features = column_features(features)
    parse = make_parser(features)
    assert parse is not None  # which features have a column depends on it
    reader = RangeReader([shard])
    starts = range(0, shard.take, _CHUNK)
    chunks = (reader.read(start, min(start + _CHUNK, shard.take)) for start in starts)
    write_shard(path, features, (list(map(parse, chunk)) for chunk in chunks))


def write_shard(
    path: Path, features: Mapping[str, Any], chunks: Iterable[Sequence[Mapping[str, Any]]]
) -> None:
    """Writes the columns of a shard.

    Args:
        features: From `column_features`.
        chunks: Of its records, in their order.
    """
    import pyarrow.parquet  # when needed: it takes a fifth of a second

    schema = pyarrow.schema([(name, _arrow_type(kind)) for name, kind in features.items()])
    # In memory first, without images they are small: pyarrow's errors of a disk have no number.
    content = pyarrow.BufferOutputStream()
    with pyarrow.parquet.ParquetWriter(content, schema, compression="zstd") as writer:
        for chunk in chunks:
            writer.write_table(pyarrow.Table.from_pylist(list(chunk), schema))
    with replacing(path) as partial:
        partial.write_bytes(content.getvalue())


def column_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """The features that are written as columns: texts, numbers and labels, and lists of them."""
    return {
        name: feature
        for name, feature in features.items()
        if not isinstance(feature, tfds.features.Image) and make_parser({name: feature})
    }


def _arrow_type(feature: Any) -> "pyarrow.DataType":
    import pyarrow

    if isinstance(feature, tfds.features.Sequence):
        return pyarrow.list_(_arrow_type(feature.feature))
    is_text = isinstance(feature, tfds.features.Text)
    return pyarrow.string() if is_text else pyarrow.int64()


def columns_path(folder: Path, shard: str) -> Path:
    """The file of the columns of a shard."""
    return folder / FOLDER / f"{Path(shard).name}.parquet"


def iter_columns(
    folder: Path, shards: Sequence[Any], fields: Sequence[str]
) -> Iterator[dict[str, Any]] | None:
    """The fields of the records of some shards in order; None where the columns are not there.

    Args:
        shards: File instructions of tfds.
    """
    paths = [columns_path(folder, shard.filename) for shard in shards]
    try:
        present = {path.name for path in (folder / FOLDER).iterdir()}
    except FileNotFoundError:
        return None
    if not paths or not all(path.name in present for path in paths):
        return None
    import pyarrow.parquet

    with _damage(paths[0]), paths[0].open("rb") as file:
        names = set(pyarrow.parquet.read_schema(file).names)
    if not names.issuperset(fields):
        return None
    return _iter_rows(paths, shards, list(fields))


def _damage(path: Path) -> contextlib.AbstractContextManager[None]:
    return arrow_errors(path, "delete its folder, and the records are read instead")


def _iter_rows(
    paths: Sequence[Path], shards: Sequence[Any], fields: list[str]
) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    for path, shard in zip(paths, shards, strict=True):
        start = 0
        with _damage(path), path.open("rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            for batch in table.iter_batches(_CHUNK, columns=fields):
                first = max(0, shard.skip - start)
                length = shard.skip + shard.take - start - first
                start += len(batch)
                if length > 0:
                    yield from batch.slice(first, length).to_pylist()
