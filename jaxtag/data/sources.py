"""Random access to prepared data sets: ArrayRecord files in the tfds layout, no TensorFlow."""

import collections
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from jaxtag.errors import UserError

_VERSION = re.compile(r"^\d+\.\d+\.\d+$")
_LABEL = tfds.features.ClassLabel
_CHUNK = 256  # records read at once where all are read


def data_dir(flag: str | os.PathLike | None = None) -> Path:
    """Where data sets lie: `flag`, else $TFDS_DATA_DIR, else tfds's own default."""
    chosen = flag or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    return Path(chosen).expanduser()


class Source:
    """One split of a prepared data set; records are dicts in the terms of its features.

    Encoded pictures stay bytes, texts are `str`, class labels and other int64 numbers `int`,
    sequences of texts or of class labels lists of them; whatever else a data set has comes as tfds
    gives it. Pickles as its address, so that each worker process opens the files for itself.
    """

    def __init__(self, folder: Path, split: str, limit: int | None = None):
        self.folder = Path(folder)
        self.split = split
        self._limit = limit
        self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __repr__(self) -> str:
        return f"Source({str(self.folder)!r}, {self.split!r})"

    def __len__(self) -> int:
        count = len(self._open()[0])
        return count if self._limit is None else min(count, self._limit)

    def first(self, count: int) -> "Source":
        """The first `count` records alone."""
        return Source(self.folder, self.split, count)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The records at `indices`, in that order; one read for all of them."""
        records, parse = self._open()
        return [parse(record) for record in records.__getitems__([int(i) for i in indices])]

    @property
    def features(self) -> tfds.features.FeaturesDict:
        """What a record holds, as tfds describes it."""
        return tfds.builder_from_directory(self.folder).info.features

    def class_names(self, feature: str = "label") -> list[str]:
        """The names of a feature's classes, by their numbers; it may be a sequence of them.

        Raises:
            UserError: the data set has no such feature, or it is no class label.
        """
        kinds = {name: getattr(kind, "feature", kind) for name, kind in self.features.items()}
        labels = {name: kind for name, kind in kinds.items() if isinstance(kind, _LABEL)}
        if feature not in labels:
            raise UserError(
                f"{self.folder} has no class labels {feature!r} "
                f"(class labels: {', '.join(labels) or 'none'})"
            )
        return list(labels[feature].names)

    def _open(self) -> tuple[Any, Callable[[bytes], dict[str, Any]]]:
        if self._opened is None:
            builder = tfds.builder_from_directory(self.folder)
            records = builder.as_data_source(
                split=self.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            ).data_source
            self._opened = records, _parser(builder.info.features)
        return self._opened


def open_split(dataset: str, split: str, data_dir: str | os.PathLike | None = None) -> Source:
    """Opens a split of a prepared data set.

    Args:
        dataset: `name`, `name/config` or `name:1.0.0`; without a version the newest one.
        split: such as `train`; tfds's slices (`train[:10%]`) work too.
        data_dir: the folder of data sets; see `data_dir`.

    Raises:
        UserError: it is not there (with the commands that bring it), incomplete, or stored in
            another format.
    """
    folder = _version_folder(dataset, data_dir)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # damaged descriptions raise many kinds
        raise UserError(
            f"the description of {folder} is damaged ({error}): delete the folder and prepare the "
            "data set again"
        ) from error
    try:
        files = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        names = ", ".join(sorted(builder.info.splits)) or "none"
        why = f" ({error})" if "[" in split else ""  # a slice that tfds does not understand
        raise UserError(
            f"{folder} has no split {split!r} (it has: {names}){why}: name one with "
            "--config.data.train_split, --config.data.evaluation_split or --split"
        ) from error
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{folder} is stored as {builder.info.file_format.value}, which has no random access: "
            "prepare it again with python -m jaxtag.prepare"
        )
    absent = [file.filename for file in files if not Path(file.filename).is_file()]
    if absent:
        raise UserError(
            f"{folder} is incomplete, {len(absent)} file(s) are missing, such as {absent[0]}: "
            "delete the folder and prepare the data set again"
        )
    return Source(folder, split)


def iter_captions(source: Source) -> Iterator[list[str]]:
    """The captions of each record in order, without a look at the pictures."""
    for fields in _all_fields(source):
        yield [_text(value) for value in fields["captions"].bytes_list.value]


def read_labels(source: Source) -> np.ndarray:
    """The class of each record in order, int64 [N], without a look at the pictures."""
    return np.array([f["label"].int64_list.value[0] for f in _all_fields(source)], np.int64)


def indices_by_class(source: Source, feature: str) -> list[np.ndarray]:
    """The records of each class or tag that has any, ascending; without a look at the pictures."""
    members = collections.defaultdict(list)
    for place, fields in enumerate(_all_fields(source)):
        for number in fields[feature].int64_list.value:
            members[number].append(place)
    return [np.array(members[number]) for number in sorted(members)]


def tag_counts(source: Source, tags: int) -> np.ndarray:
    """How many records have each tag, int64 [tags], without a look at the pictures."""
    counts = np.zeros(tags, np.int64)
    for fields in _all_fields(source):
        counts[list(fields["tags"].int64_list.value)] += 1
    return counts


def iter_tags(source: Source) -> Iterator[tuple[str, list[str]]]:
    """(file, its tags or its class) of each record in order, without a look at the pictures.

    Raises:
        UserError: the data set has neither.
    """
    feature = "tags" if "tags" in source.features else "label"
    names = source.class_names(feature)
    for fields in _all_fields(source):
        numbers = fields[feature].int64_list.value
        yield _text(fields["file"].bytes_list.value[0]), [names[number] for number in numbers]


def _all_fields(source: Source) -> Iterator[Any]:
    """The fields of each record in order, as a `tf.train.Example` has them."""
    records, _ = source._open()
    for start in range(0, len(source), _CHUNK):
        chunk = range(start, min(start + _CHUNK, len(source)))
        for record in records.__getitems__(list(chunk)):
            yield tf_example_pb2.Example.FromString(record).features.feature


def _version_folder(dataset: str, flag: str | os.PathLike | None) -> Path:
    name, _, version = dataset.partition(":")
    root = data_dir(flag)
    parent = root / name
    found = []
    if parent.is_dir():
        found = [
            folder.name
            for folder in parent.iterdir()
            if _VERSION.match(folder.name) and (folder / "dataset_info.json").is_file()
        ]
    if not found or (version and version not in found):
        from jaxtag import datasets

        held = f" (it holds {', '.join(sorted(found))})" if found else ""
        commands = datasets.download_instructions(name, flag and shlex.quote(os.fspath(flag)))
        raise UserError(f"the data set {dataset} is not prepared in {root}{held}.\n{commands}")
    return parent / (version or max(found, key=lambda v: tuple(map(int, v.split(".")))))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _parser(features: tfds.features.FeaturesDict) -> Callable[[bytes], dict[str, Any]]:
    """How to read a record: directly where `_reader` knows all features, else by tfds.

    tfds's own reader takes several times as long for these, as long as decoding a small JPEG.
    """
    readers = {name: _reader(feature) for name, feature in features.items()}
    if all(readers.values()):

        def parse(record: bytes) -> dict[str, Any]:
            fields = tf_example_pb2.Example.FromString(record).features.feature
            return {name: read(fields[name]) for name, read in readers.items()}

        return parse
    images = {n: f for n, f in features.items() if isinstance(f, tfds.features.Image)}
    decoders = {name: tfds.decode.SkipDecoding() for name in images}

    def parse_any(record: bytes) -> dict[str, Any]:
        values = features.deserialize_example_np(record, decoders=decoders)
        return {name: _plain(features[name], value) for name, value in values.items()}

    return parse_any


def _reader(feature: Any) -> Callable[[Any], Any] | None:
    """From a field of a `tf.train.Example` to its value; None for what only tfds can read."""
    kind = type(feature)
    if kind is tfds.features.Image:
        return lambda field: field.bytes_list.value[0]
    if kind is tfds.features.Text:
        return lambda field: _text(field.bytes_list.value[0])
    if kind is tfds.features.Sequence and type(feature.feature) is tfds.features.Text:
        return lambda field: [_text(value) for value in field.bytes_list.value]
    if kind is tfds.features.Sequence and type(feature.feature) is _LABEL:
        return lambda field: list(field.int64_list.value)
    if kind is _LABEL or (kind is tfds.features.Scalar and feature.np_dtype == np.int64):
        return lambda field: field.int64_list.value[0]
    return None


def _plain(feature: Any, value: Any) -> Any:
    """Texts as `str`, like the direct reader gives them."""
    if isinstance(feature, tfds.features.Text):
        return _text(value)
    if isinstance(feature, tfds.features.Sequence) and isinstance(
        feature.feature, tfds.features.Text
    ):
        return [_text(item) for item in value]
    return value
