"""Random access to records: prepared splits (ArrayRecord in the tfds layout) and a user's own.

A record is a dict: `image` (encoded bytes, or a uint8 array [H, W, 3]) and whatever the targets of
a task read, as `captions` (list of str), `label` (number or name of a class) or `tags` and
`unknown_tags` (lists of numbers or names). Anything with `__len__` and `__getitems__` is a
`DataSource`; `as_data_source` adapts what has neither, such as a list or a `grain.MapDataset`.
"""

import abc
import collections
import contextlib
import errno
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds

from jaxtag.data.columns import iter_columns
from jaxtag.data.labels import LabelNames
from jaxtag.data.range_reader import RangeReader
from jaxtag.data.record_parser import Parser, decode_text, make_parser, make_tfds_parser
from jaxtag.data.text import clean_names
from jaxtag.errors import StorageError, UserError
from jaxtag.storage import json_files
from jaxtag.storage.paths import make_path

Record = dict[str, Any]
_SUMMARY = "summary.json"  # of prepare
_CHUNK = 256  # records read at once where all are read


@runtime_checkable
class DataSource(Protocol):
    """What the input pipeline reads; picklable, so that worker processes can hold it."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]: ...


class Source(abc.ABC):
    """A data source that also knows its fields and the names of its labels.

    Attributes:
        name: What to call it in messages.
    """

    name: str

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of records."""

    @abc.abstractmethod
    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        """The records at `indices`, in that order."""

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def read_range(self, start: int, stop: int) -> list[Record]:
        """The records `start` … `stop - 1`; neighbors may be read in one piece."""
        return self.__getitems__(range(start, stop))

    @property
    @abc.abstractmethod
    def features(self) -> Mapping[str, Any]:
        """The fields of a record, each with its tfds feature or its type."""

    @abc.abstractmethod
    def class_names(self, feature: str = "label") -> list[str]:
        """The names of the labels of a feature (or of the items of a list), by their numbers.

        Raises:
            UserError: There is no such feature, or it is no label.
        """

    def iter_fields(self, fields: Sequence[str]) -> Iterator[Record]:
        """Yields the records in order, with at least `fields`.

        Raises:
            UserError: The source has no such field.
        """
        for name in fields if len(self) else ():
            _check_field(name, self.features, self.name)
        for start in range(0, len(self), _CHUNK):
            yield from self.__getitems__(range(start, min(start + _CHUNK, len(self))))

    def first(self, count: int) -> "Source":
        """The source of the first `count` records alone."""
        return _FirstRecords(self, count)

    def declared_names(self, feature: str) -> list[str] | None:
        """The names of the labels of a feature by their numbers, where that takes no reading.

        None where records hold names themselves, or numbers that nobody named.
        """
        return self.class_names(feature)

    def mixture_parts(self) -> list[tuple[int, float]]:
        """(number of records, weight) of each source that this one mixes, in their order."""
        return [(len(self), 1.0)]

    def fingerprint(self) -> dict[str, Any]:
        """What tells these records from others without reading them, as JSON can hold it."""
        return {"examples": len(self)}


class PreparedSource(Source):
    """One split of a prepared data set.

    Encoded images stay bytes, texts are `str`, class labels and other int64 numbers `int`,
    sequences of texts or of class labels lists of them; other features come as tfds decodes them.
    Pickles only its path; each worker process reopens the files.

    Args:
        folder: `DATA_DIR/<dataset>/<version>`.
        split: A split or slice in tfds's notation.
    """

    def __init__(self, folder: Path, split: str):
        self.folder = make_path(folder)
        self.split = split
        self.name = str(self.folder)
        self._opened: tuple[Any, tfds.features.FeaturesDict, Parser] | None = None
        self._ranges: RangeReader | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_ranges": None}

    def __repr__(self) -> str:
        return f"PreparedSource({str(self.folder)!r}, {self.split!r})"

    def __len__(self) -> int:
        return len(self._open()[0])

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        """The records at `indices`, in that order; one read for all of them.

        Raises:
            UserError: The files are damaged, or do not hold what their description says.
        """
        records, _, parse = self._open()
        with self._read_errors():
            encoded = records.__getitems__([int(i) for i in indices])
        return self._parsed(encoded, parse)

    def read_range(self, start: int, stop: int) -> list[Record]:
        """The records `start` … `stop - 1`, read in pieces of 16 MiB: a store is asked seldom."""
        parse = self._open()[2]
        if self._ranges is None:
            self._ranges = RangeReader(self._shards())
        with self._read_errors():
            encoded = list(self._ranges.read(start, stop))
        return self._parsed(encoded, parse)

    @contextlib.contextmanager
    def _read_errors(self) -> Iterator[None]:
        """Errors of ArrayRecord's reader, which is C++, in one line."""
        try:
            yield
        except RuntimeError as error:
            kind = StorageError if os.strerror(errno.EIO) in str(error) else UserError
            raise kind(
                f"{self.folder}: records of {self.split!r} cannot be read ({str(error)[:300]}): "
                "prepare the data set again, with --overwrite"
            ) from error

    def _parsed(self, encoded: Iterable[bytes], parse: Parser) -> list[Record]:
        try:
            return [parse(record) for record in encoded]
        except Exception as error:  # tfds's decoders raise anything
            raise UserError(
                f"{self.folder}: a record of {self.split!r} is not as features.json describes it "
                f"({type(error).__name__}: {str(error)[:300]}): prepare the data set again, with "
                "--overwrite"
            ) from error

    @property
    def features(self) -> tfds.features.FeaturesDict:
        """The fields of a record, as tfds describes them."""
        return tfds.builder_from_directory(self.folder).info.features

    def class_names(self, feature: str = "label") -> list[str]:
        """The names of the labels of a feature (or of the items of a sequence of them)."""
        items = {name: getattr(kind, "feature", kind) for name, kind in self.features.items()}
        labels = {
            name: kind for name, kind in items.items() if isinstance(kind, tfds.features.ClassLabel)
        }
        if feature not in labels:
            raise UserError(
                f"{self.folder} has no class labels {feature!r} "
                f"(class labels: {', '.join(labels) or 'none'})"
            )
        return list(labels[feature].names)

    def fingerprint(self) -> dict[str, Any]:
        """The data set's name and version, and a digest of its description.

        The description holds the number of records and of bytes in each file of the split, so that
        the digest changes with the pictures, though none of them is read; `prepare` wrote down a
        digest of what they hold.
        """
        info = tfds.builder_from_directory(self.folder).info
        names = [part.partition("[")[0].strip() for part in self.split.split("+")]
        splits = [info.splits[name] for name in names if name in info.splits]
        files = [[list(split.shard_lengths), split.num_bytes] for split in splits]
        features = {
            name: [type(kind).__name__, getattr(getattr(kind, "feature", kind), "names", None)]
            for name, kind in info.features.items()
        }
        text = json.dumps([files, features], sort_keys=True)
        return {
            "dataset": info.full_name,
            "examples": len(self),
            "digest": hashlib.sha256(text.encode()).hexdigest()[:16],
            **({"slice": self.split} if "[" in self.split else {}),
            **self._contents(names),
        }

    def _contents(self, splits: list[str]) -> dict[str, str]:
        """The digest of images and annotations by `prepare`; nothing for other data sets."""
        path = self.folder / _SUMMARY
        try:
            contents = json_files.read(path)["contents"]
            return {"contents": "+".join(contents[split] for split in splits)}
        except (UserError, KeyError, TypeError):
            return {}

    def iter_fields(self, fields: Sequence[str]) -> Iterator[Record]:
        """Yields `fields` of the records in order, from their columns where they were written."""
        records, features, _ = self._open()
        for name in fields:
            _check_field(name, features, self.name)
        columns = iter_columns(self.folder, self._shards(), fields)
        if columns is not None:
            yield from columns
            return
        parse = make_parser({name: features[name] for name in fields})
        if parse is None:
            yield from super().iter_fields(fields)
            return
        for start in range(0, len(self), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(self)))
            with self._read_errors():
                encoded = records.__getitems__(list(chunk))
            yield from self._parsed(encoded, parse)

    def _shards(self) -> Sequence[Any]:
        """tfds's instructions: the files, and the records of each that belong to the split."""
        shards: Sequence[Any] = (
            tfds.builder_from_directory(self.folder).info.splits[self.split].file_instructions
        )
        return shards

    def _open(self) -> "tuple[Any, tfds.features.FeaturesDict, Parser]":
        if self._opened is None:
            builder = tfds.builder_from_directory(self.folder)
            records = builder.as_data_source(
                split=self.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            ).data_source
            features = builder.info.features
            self._opened = records, features, make_parser(features) or make_tfds_parser(features)
        return self._opened


class RecordSource(Source):
    """A user's records, read through a function from indices to records.

    Args:
        records: What the records come from; picklable.
        read: Reads the records at some indices of `records`.
        class_names: Names of the labels, by feature. Of other features, the names that occur in
            the records, sorted; of numbers, the numbers up to the largest.
    """

    def __init__(
        self,
        records: Any,
        read: Callable[[Any, Sequence[int]], list[Record]],
        class_names: Mapping[str, Sequence[str]] | None = None,
    ):
        self.name = f"the data source {type(records).__name__}"
        self._records = records
        self._read = read
        self._class_names = {name: list(names) for name, names in (class_names or {}).items()}

    def __len__(self) -> int:
        return len(self._records)

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        """The records at `indices`, in that order."""
        records = self._read(self._records, [int(i) for i in indices])
        return [self._checked(record, i) for record, i in zip(records, indices, strict=True)]

    @property
    def features(self) -> Mapping[str, Any]:
        """The source's own `features`, else the types of the values of the first record."""
        if hasattr(self._records, "features"):
            return self._records.features
        if len(self) == 0:
            return {}
        return {name: type(value) for name, value in self[0].items()}

    def class_names(self, feature: str = "label") -> list[str]:
        """The names of the labels of a feature; the first call may read all records."""
        names = self._class_names.get(feature)
        if names is None:
            if hasattr(self._records, "class_names"):
                names = list(self._records.class_names(feature))
            else:
                names = self._names_in_records(feature)
            self._class_names[feature] = names
        return names

    def declared_names(self, feature: str) -> list[str] | None:
        if feature in self._class_names or hasattr(self._records, "class_names"):
            return self.class_names(feature)
        return None

    def _names_in_records(self, feature: str) -> list[str]:
        fields = ["tags", "unknown_tags"] if feature == "tags" else [feature]
        labels: set[int | str] = set()
        for record in self.iter_fields([feature]):
            for field in fields:
                labels.update(as_list(record.get(field, [])))
        if all(isinstance(label, str) for label in labels):
            return sorted(clean_names(map(str, labels)))
        if not all(isinstance(label, int) for label in labels):
            raise UserError(f"{self.name}: {feature!r} holds labels by name and by number")
        return [str(number) for number in range(max(map(int, labels)) + 1)]

    def _checked(self, record: Any, index: int) -> Record:
        if not isinstance(record, Mapping) or "image" not in record:
            raise UserError(
                f"record {index} of {self.name} is {_described(record)}: it must be a dict with "
                "an 'image'"
            )
        return {
            name: value if name == "image" else _python_value(value)
            for name, value in record.items()
        }


class SourceView(Source):
    """Another source's records, seen otherwise: all that a subclass does not say is the source's.

    Args:
        source: Holds the records.
    """

    def __init__(self, source: Source):
        self.name = source.name
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        return self.source.__getitems__(indices)

    @property
    def features(self) -> Mapping[str, Any]:
        return self.source.features

    def class_names(self, feature: str = "label") -> list[str]:
        return self.source.class_names(feature)

    def declared_names(self, feature: str) -> list[str] | None:
        return self.source.declared_names(feature)

    def fingerprint(self) -> dict[str, Any]:
        return {**self.source.fingerprint(), "examples": len(self)}


class _FirstRecords(SourceView):
    """The first records of another source."""

    def __init__(self, source: Source, count: int):
        super().__init__(source)
        self._count = count

    def __len__(self) -> int:
        return min(self._count, len(self.source))

    def read_range(self, start: int, stop: int) -> list[Record]:
        return self.source.read_range(start, stop)

    def iter_fields(self, fields: Sequence[str]) -> Iterator[Record]:
        return itertools.islice(self.source.iter_fields(fields), len(self))


def as_data_source(records: Any, class_names: Mapping[str, Sequence[str]] | None = None) -> Source:
    """Adapts what a user has to a `Source`.

    Args:
        records: A `Source` (returned as it is), a `DataSource`, a `grain.MapDataset`, or a
            sequence of records: anything with a length and items by number. Its own
            `class_names(feature)`, where it has one, is used.
        class_names: Names of the labels, by feature: `{"label": ["cat", "dog"]}`. By default
            they are gathered from the records, so give them where a split may lack a class.

    Raises:
        UserError: It is none of these.
    """
    if isinstance(records, Source):
        return records
    if hasattr(records, "__len__") and not isinstance(records, str | bytes | Mapping):
        if hasattr(records, "__getitems__"):
            return RecordSource(records, _read_items, class_names)
        if hasattr(records, "__getitem__"):
            return RecordSource(records, _read_one_by_one, class_names)
    raise UserError(
        f"{type(records).__name__} is no data source: give an object with __len__ and "
        "__getitems__(indices), a grain.MapDataset, or a sequence of records"
    )


def iter_captions(source: DataSource) -> Iterator[list[str]]:
    """Yields the captions of each record in order."""
    for record in as_data_source(source).iter_fields(["captions"]):
        yield record["captions"]


def read_labels(source: DataSource, labels: LabelNames | None = None) -> np.ndarray:
    """Reads the class of each record in order, int64 [N].

    Args:
        labels: Numbers the names of classes; needed where records hold names.
    """
    values = (record["label"] for record in as_data_source(source).iter_fields(["label"]))
    return np.array([labels.index(v) if labels else v for v in values], np.int64)


def indices_by_class(source: DataSource, feature: str) -> list[np.ndarray]:
    """The indices of the records of each class or tag that has any, ascending."""
    indices = collections.defaultdict(list)
    for index, record in enumerate(as_data_source(source).iter_fields([feature])):
        for label in as_list(record[feature]):
            indices[label].append(index)
    return [np.array(indices[label]) for label in sorted(indices)]


def tag_counts(source: DataSource, tags: LabelNames | int) -> np.ndarray:
    """Counts the records that have each tag, int64 [T].

    Args:
        tags: The names of all tags, or T where records hold numbers.
    """
    counts = np.zeros(tags if isinstance(tags, int) else len(tags), np.int64)
    for record in as_data_source(source).iter_fields(["tags"]):
        labels = record["tags"]
        counts[labels if isinstance(tags, int) else tags.indices(labels)] += 1
    return counts


def iter_tags(source: Source) -> Iterator[tuple[str, list[str]]]:
    """Yields (file, names of its tags or of its class) of each record in order.

    A record without a file is called by its index.

    Raises:
        UserError: The source has neither tags nor labels.
    """
    feature = "tags" if "tags" in source.features else "label"
    names = source.class_names(feature)
    fields = ["file", feature] if "file" in source.features else [feature]
    for index, record in enumerate(source.iter_fields(fields)):
        labels = as_list(record[feature])
        tags = [label if isinstance(label, str) else names[label] for label in labels]
        yield record.get("file", str(index)), tags


def _read_items(records: Any, indices: Sequence[int]) -> list[Record]:
    return list(records.__getitems__(indices))


def _read_one_by_one(records: Any, indices: Sequence[int]) -> list[Record]:
    return [records[index] for index in indices]


def _check_field(name: str, features: Mapping[str, Any], source: str) -> None:
    if name not in features:
        fields = ", ".join(sorted(features)) or "nothing"
        raise UserError(f"{source} has no {name} (a record holds: {fields})")


def as_list(labels: Any) -> list[int | str]:
    """Labels of a record: a list of several as it is, a single one in a list."""
    return labels if isinstance(labels, list) else [labels]


def _described(record: Any) -> str:
    if isinstance(record, Mapping):
        return f"a dict with {', '.join(map(str, record)) or 'nothing'}"
    return f"a {type(record).__name__}"


def _python_value(value: Any) -> Any:
    """numpy's values (as tfds gives them) as Python's, and bytes as `str`."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return decode_text(value)
    if isinstance(value, list | tuple):
        return [decode_text(item) if isinstance(item, bytes) else item for item in value]
    return value
