"""CIFAR-10 and CIFAR-100 from the official binary or Python archives, or in class folders.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxtag.datasets.archives import Store
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.cifar_files import Batch, read_binary, read_names, read_pickled
from jaxtag.datasets.cifar_pickle import read_pickle
from jaxtag.datasets.class_folders import list_class_folders
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.labelled import LabelListing
from jaxtag.errors import UserError

_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


@dataclass(frozen=True)
class _Label:
    """Where the classes of a feature stand: files of the binary archive, keys of the other."""

    names_file: str
    key: str
    names_key: str


class _Cifar(ImageDatasetBuilder, skip_registration=True):
    """What both have in common. Files of the archives and their labels, in a record's order."""

    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
    CITATION = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
    COUNTS: ClassVar = {"train": 50_000, "test": 10_000}
    MD5: ClassVar = {
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    }
    FILES: Mapping[str, list[str]]
    META: str
    LABELS: Mapping[str, _Label]
    CLASSES: int

    @classmethod
    def list_pictures(cls, store: Store) -> LabelListing:
        files = [file for files in cls.FILES.values() for file in files]
        if any(store.find(f"{file}.bin") for file in files):
            return cls._binary(store)
        if store.find(cls.META):
            return cls._pickled(store)
        listing = list_class_folders(store)
        if listing and listing.features["label"].num_classes == cls.CLASSES:
            return listing
        raise UserError(
            f"{store.path} has no {cls.name} ({files[0]}.bin, {cls.META}, or folders of "
            f"{cls.CLASSES} classes below train and test).\n{download_instructions(cls.name)}"
        )

    @classmethod
    def _binary(cls, store: Store) -> LabelListing:
        classes = {
            feature: read_names(store, cls._find(store, label.names_file))
            for feature, label in cls.LABELS.items()
        }
        listing = LabelListing("official binary files", classes)
        for split, files in cls.FILES.items():
            found = [cls._find(store, f"{file}.bin") for file in files]
            cls._add(listing, split, [read_binary(store, name, classes) for name in found])
        return listing

    @classmethod
    def _pickled(cls, store: Store) -> LabelListing:
        meta = cls._find(store, cls.META)
        content = read_pickle(store, meta)
        classes = {}
        for feature, label in cls.LABELS.items():
            names = content.get(label.names_key)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UserError(f"{store.where(meta)} has no list of names {label.names_key!r}")
            classes[feature] = names
        keys = {feature: label.key for feature, label in cls.LABELS.items()}
        listing = LabelListing("official Python files", classes)
        for split, files in cls.FILES.items():
            found = [cls._find(store, file) for file in files]
            cls._add(listing, split, [read_pickled(store, name, keys, classes) for name in found])
        return listing

    @classmethod
    def _add(cls, listing: LabelListing, split: str, batches: list[Batch]) -> None:
        pixels = np.concatenate([batch.pixels for batch in batches])
        labels = {
            feature: np.concatenate([batch.labels[feature] for batch in batches])
            for feature in cls.LABELS
        }
        listing.add_pixels(split, pixels, labels)

    @classmethod
    def _find(cls, store: Store, file: str) -> str:
        found = store.find(file)
        if not found:
            raise UserError(f"{store.path} has no {file}.\n{download_instructions(cls.name)}")
        return found[0]


class Cifar10(_Cifar, skip_registration=True):  # tfds has its own
    """CIFAR-10: photographs of ten kinds of animals and vehicles, 32x32 pixels."""

    name = "cifar10"
    FILES: ClassVar = {"train": _BATCHES, "test": ["test_batch"]}
    META = "batches.meta"
    LABELS: ClassVar = {"label": _Label("batches.meta.txt", "labels", "label_names")}
    CLASSES = 10

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(re.match(r"(?i)cifar-?10(?!0)", archive))


class Cifar100(_Cifar, skip_registration=True):  # tfds has its own
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
    CLASSES = 100

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(re.match(r"(?i)cifar-?100", archive))
