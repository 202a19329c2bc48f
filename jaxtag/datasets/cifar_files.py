"""The files of CIFAR's archives: 3,072 bytes a picture (red, green, blue rows) and its labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxtag.datasets.archives import MAX_PICTURE_BYTES, ReadError, Store
from jaxtag.datasets.cifar_pickle import read_pickle
from jaxtag.datasets.coco_json import read_text
from jaxtag.errors import UserError

_VALUES = 3 * 32 * 32


@dataclass(frozen=True)
class Batch:
    """One file: `pixels` uint8 [N, 32, 32, 3], `labels` feature -> integers [N]."""

    pixels: np.ndarray
    labels: dict[str, np.ndarray]


def read_names(store: Store, name: str) -> list[str]:
    """The names of classes, one a line."""
    return read_text(store, name).split()


def read_binary(store: Store, name: str, classes: Mapping[str, Sequence[str]]) -> Batch:
    """A file of records: a byte for each feature of `classes`, in that order, then the picture.

    Raises:
        UserError: it cannot be read, is cut short or has a label that is no class.
    """
    try:
        data = np.frombuffer(store.read(name, MAX_PICTURE_BYTES), np.uint8)
    except ReadError as error:
        raise UserError(f"{store.where(name)}: {error}") from error
    width = len(classes) + _VALUES
    if len(data) == 0 or len(data) % width:
        raise UserError(
            f"{store.where(name)} has {len(data):,} bytes, which is no number of records of "
            f"{width:,}: get it again"
        )
    records = data.reshape(-1, width)
    labels = {feature: records[:, place] for place, feature in enumerate(classes)}
    return _batch(store, name, records[:, len(classes) :], labels, classes)


def read_pickled(
    store: Store, name: str, keys: Mapping[str, str], classes: Mapping[str, Sequence[str]]
) -> Batch:
    """A pickled dictionary of `data` uint8 [N, 3072] and, under `keys`, lists of labels.

    Raises:
        UserError: as `read_binary`, or it holds anything that these files do not.
    """
    content = read_pickle(store, name)
    rows = content.get("data")
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _VALUES:
        raise UserError(f"{store.where(name)} has no 'data' with {_VALUES:,} values a picture")
    labels = {}
    for feature, key in keys.items():
        numbers = content.get(key)
        right = isinstance(numbers, list) and len(numbers) == len(rows)
        if not right or not all(type(number) is int for number in numbers):
            raise UserError(f"{store.where(name)} has no list {key!r} with a number a picture")
        labels[feature] = np.array(numbers)
    return _batch(store, name, rows, labels, classes)


def _batch(
    store: Store,
    name: str,
    rows: np.ndarray,
    labels: dict[str, np.ndarray],
    classes: Mapping[str, Sequence[str]],
) -> Batch:
    for feature, numbers in labels.items():
        wrong = np.flatnonzero((numbers < 0) | (numbers >= len(classes[feature])))
        if len(wrong):
            raise UserError(
                f"{store.where(name)}: {feature} {numbers[wrong[0]]} of picture {wrong[0]:,} is "
                f"none of the {len(classes[feature])} classes: get it again"
            )
    return Batch(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)
