"""CIFAR-10 and CIFAR-100 from the official binary or Python archives, or in class folders.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

An image has 3,072 bytes in the archives: its red, green and blue rows.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxtag.datasets.archives import MAX_IMAGE_BYTES, ReadError
from jaxtag.datasets.base import ImageDatasetBuilder, Listing
from jaxtag.datasets.cifar_pickle import read_pickle
from jaxtag.datasets.class_folders import list_class_folders
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.listings import LabelListing
from jaxtag.datasets.source_files import SourceFiles
from jaxtag.datasets.text_files import read_text
from jaxtag.errors import UserError

_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
_IMAGE_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class _Label:
    """Where the classes of a feature stand.

    Attributes:
        names_file: Of the binary archive: the names of the classes.
        key: Of a pickle: the labels.
        names_key: Of the pickle with the names.
    """

    names_file: str
    key: str
    names_key: str


@dataclass(frozen=True)
class _Batch:
    """One file: `pixels` uint8 [N, 32, 32, 3], `labels` feature -> integers [N]."""

    pixels: np.ndarray
    labels: dict[str, np.ndarray]


class _Cifar(ImageDatasetBuilder):
    """What both have in common.

    Attributes:
        FILES: Split -> files of the archives, without a suffix.
        META: The pickle with the names of the classes.
        LABELS: The features, in the order of a record of the binary archive.
        NUM_LABELS: Classes of `label`.
    """

    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
    CITATION = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    COUNTS: ClassVar = {"train": 50_000, "test": 10_000}
    MD5: ClassVar = {
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    }
    FILES: ClassVar[Mapping[str, list[str]]]
    META: ClassVar[str]
    LABELS: ClassVar[Mapping[str, _Label]]

    @classmethod
    def list_images(cls, source: SourceFiles) -> Listing:
        files = [file for files in cls.FILES.values() for file in files]
        if any(source.find(f"{file}.bin") for file in files):
            return cls._list_binary(source)
        if source.find(cls.META):
            return cls._list_pickles(source)
        listing = list_class_folders(source, keep_splits=True)
        if listing and listing.features["label"].num_classes == cls.NUM_LABELS:
            return listing
        raise UserError(
            f"{source.path} has no {cls.name} ({files[0]}.bin, {cls.META}, or folders of "
            f"{cls.NUM_LABELS} classes below train and test).\n{download_instructions(cls.name)}"
        )

    @classmethod
    def _list_binary(cls, source: SourceFiles) -> LabelListing:
        classes = {
            feature: read_text(source, cls._find(source, label.names_file)).split()
            for feature, label in cls.LABELS.items()
        }
        listing = LabelListing("official binary files", classes)
        for split, files in cls.FILES.items():
            paths = [cls._find(source, f"{file}.bin") for file in files]
            cls._add(listing, split, [_read_binary(source, path, classes) for path in paths])
        return listing

    @classmethod
    def _list_pickles(cls, source: SourceFiles) -> LabelListing:
        meta = cls._find(source, cls.META)
        content = read_pickle(source, meta)
        classes = {}
        for feature, label in cls.LABELS.items():
            names = content.get(label.names_key)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UserError(f"{source.where(meta)} has no list of names {label.names_key!r}")
            classes[feature] = names
        keys = {feature: label.key for feature, label in cls.LABELS.items()}
        listing = LabelListing("official Python files", classes)
        for split, files in cls.FILES.items():
            paths = [cls._find(source, file) for file in files]
            batches = [_read_pickle_batch(source, path, keys, classes) for path in paths]
            cls._add(listing, split, batches)
        return listing

    @classmethod
    def _add(cls, listing: LabelListing, split: str, batches: list[_Batch]) -> None:
        pixels = np.concatenate([batch.pixels for batch in batches])
        labels = {
            feature: np.concatenate([batch.labels[feature] for batch in batches])
            for feature in cls.LABELS
        }
        listing.add_pixels(split, pixels, labels)

    @classmethod
    def _find(cls, source: SourceFiles, file: str) -> str:
        path = source.first(file)
        if path is None:
            raise UserError(f"{source.path} has no {file}.\n{download_instructions(cls.name)}")
        return path


class Cifar10(_Cifar):
    """CIFAR-10: photographs of ten kinds of animals and vehicles, 32x32 pixels."""

    name = "cifar10"
    FILES: ClassVar = {"train": _BATCHES, "test": ["test_batch"]}
    META = "batches.meta"
    LABELS: ClassVar = {"label": _Label("batches.meta.txt", "labels", "label_names")}
    NUM_LABELS = 10

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(re.match(r"(?i)cifar-?10(?!0)", name))


class Cifar100(_Cifar):
    """CIFAR-100: photographs of 100 kinds of things in 20 groups, 32x32 pixels.

    `label` is the kind; `coarse_label`, in the official archives, its group.
    """

    name = "cifar100"
    FILES: ClassVar = {"train": ["train"], "test": ["test"]}
    META = "meta"
    LABELS: ClassVar = {  # a record of the binary form has the group first
        "coarse_label": _Label("coarse_label_names.txt", "coarse_labels", "coarse_label_names"),
        "label": _Label("fine_label_names.txt", "fine_labels", "fine_label_names"),
    }
    NUM_LABELS = 100

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(re.match(r"(?i)cifar-?100", name))


def _read_binary(source: SourceFiles, name: str, classes: Mapping[str, Sequence[str]]) -> _Batch:
    """Reads records of a byte for each feature of `classes`, in that order, then the image.

    Raises:
        UserError: The file cannot be read, is cut short or has a label that is no class.
    """
    try:
        data = np.frombuffer(source.read(name, MAX_IMAGE_BYTES), np.uint8)
    except ReadError as error:
        raise UserError(f"{source.where(name)}: {error}") from error
    width = len(classes) + _IMAGE_BYTES
    if len(data) == 0 or len(data) % width:
        raise UserError(
            f"{source.where(name)} has {len(data):,} bytes, which is no number of records of "
            f"{width:,}: get it again"
        )
    records = data.reshape(-1, width)
    labels = {feature: records[:, column] for column, feature in enumerate(classes)}
    return _batch(source, name, records[:, len(classes) :], labels, classes)


def _read_pickle_batch(
    source: SourceFiles,
    name: str,
    keys: Mapping[str, str],
    classes: Mapping[str, Sequence[str]],
) -> _Batch:
    """Reads a dictionary of `data` uint8 [N, 3072] and, under `keys`, lists of labels.

    Raises:
        UserError: As `_read_binary`, or the pickle holds anything that these files do not.
    """
    content = read_pickle(source, name)
    rows = content.get("data")
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _IMAGE_BYTES:
        raise UserError(f"{source.where(name)} has no 'data' with {_IMAGE_BYTES:,} values an image")
    labels = {}
    for feature, key in keys.items():
        numbers: Any = content.get(key)
        fits = isinstance(numbers, list) and len(numbers) == len(rows)
        if not fits or not all(type(number) is int for number in numbers):
            raise UserError(f"{source.where(name)} has no list {key!r} with a number an image")
        labels[feature] = np.array(numbers)
    return _batch(source, name, rows, labels, classes)


def _batch(
    source: SourceFiles,
    name: str,
    rows: np.ndarray,
    labels: dict[str, np.ndarray],
    classes: Mapping[str, Sequence[str]],
) -> _Batch:
    for feature, numbers in labels.items():
        wrong = np.flatnonzero((numbers < 0) | (numbers >= len(classes[feature])))
        if len(wrong):
            raise UserError(
                f"{source.where(name)}: {feature} {numbers[wrong[0]]} of image {wrong[0]:,} is "
                f"none of the {len(classes[feature])} classes: get it again"
            )
    return _Batch(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)
