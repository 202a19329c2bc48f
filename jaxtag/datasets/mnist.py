"""MNIST from its four official files, packed with gzip or not.

LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition, 1998.
"""

import math
import re
import struct
import zlib
from typing import ClassVar

import numpy as np

from jaxtag.datasets.archives import ReadError, Store
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.checksums import differing_content
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.labelled import LabelListing
from jaxtag.errors import UserError

_PARTS = {"train": "train", "test": "t10k"}
_MAX_BYTES = 1 << 30
# Of the files unpacked: copies of them are packed in many ways.
_MD5 = {
    "train-images": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels": "a25bea736e30d166cdddb491f175f624",
    "t10k-images": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels": "27ae3e4e09519cfbb04c329615203637",
}


class Mnist(ImageDatasetBuilder, skip_registration=True):  # tfds has its own
    """MNIST: handwritten digits, 28x28 pixels in grey, by their number from 0 to 9."""

    name = "mnist"
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
    CITATION = "LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 86(11), 1998"
    COUNTS: ClassVar = {"train": 60_000, "test": 10_000}

    @staticmethod
    def wanted(archive: str) -> bool:
        return bool(re.search(r"(?i)mnist", archive))

    @classmethod
    def list_pictures(cls, store: Store) -> LabelListing:
        digits = [str(digit) for digit in range(10)]
        listing = LabelListing("official IDX files", {"label": digits})
        for split, part in _PARTS.items():
            image_file, images = _read(listing, store, f"{part}-images", dimensions=3)
            label_file, labels = _read(listing, store, f"{part}-labels", dimensions=1)
            if len(images) != len(labels):
                raise UserError(
                    f"{store.where(image_file)} has {len(images):,} pictures, but "
                    f"{store.where(label_file)} has {len(labels):,} labels"
                )
            if labels.max(initial=0) > 9:
                place = int(labels.argmax())
                raise UserError(
                    f"{store.where(label_file)}: label {labels[place]} (number {place:,}) is no "
                    "digit from 0 to 9: get the file again"
                )
            listing.add_pixels(split, images, {"label": labels})
        return listing


def _find(store: Store, part: str, kind: str) -> str:
    """The path of a file under any of its names: with '-' or '.', with .gz or without."""
    names = [f"{part}{joint}{kind}{ending}" for ending in ("", ".gz") for joint in "-."]
    for name in names:
        found = store.find(name)
        if found:
            return found[0]
    raise UserError(f"{store.path} has no {names[0]} (or .gz).\n{download_instructions('mnist')}")


def _read(
    listing: LabelListing, store: Store, part: str, dimensions: int
) -> tuple[str, np.ndarray]:
    """Path and values of one file; one that differs from the published becomes a warning."""
    name = _find(store, part, f"idx{dimensions}-ubyte")
    data, where = _content(store, name), store.where(name)
    listing.warnings += differing_content(where, data, _MD5[part])
    return name, _parse_idx(data, where, dimensions)


def _parse_idx(data: bytes, where: str, dimensions: int) -> np.ndarray:
    """uint8 array of an IDX file: a magic number, the sizes (big-endian), then the values."""
    header = 4 + 4 * dimensions
    magic = 0x0800 + dimensions  # 0x08: the values are unsigned bytes
    if len(data) < header:
        raise UserError(f"{where} is cut short ({len(data)} bytes): get the file again")
    found, *shape = struct.unpack_from(f">{1 + dimensions}I", data)
    if found != magic:
        raise UserError(
            f"{where} starts with {found:#010x} instead of {magic:#010x}: no IDX file of "
            f"unsigned bytes in {dimensions} dimension(s)"
        )
    values = math.prod(shape)
    if values != len(data) - header:
        raise UserError(
            f"{where} says it holds {' x '.join(map(str, shape))} bytes, but there are "
            f"{len(data) - header:,}: get the file again"
        )
    if values == 0:
        raise UserError(f"{where} is empty: get the file again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _content(store: Store, name: str) -> bytes:
    """The bytes of a file, unpacked from gzip where it is packed."""
    try:
        data = store.read(name, _MAX_BYTES)
    except ReadError as error:
        raise UserError(f"{store.where(name)}: {error}") from error
    if not data.startswith(b"\x1f\x8b"):
        return data
    # Not gzip.decompress, which has no limit.
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(data, _MAX_BYTES)
    except zlib.error as error:
        raise UserError(f"{store.where(name)} is damaged ({error}): get it again") from error
    if unpacker.unconsumed_tail:
        raise UserError(f"{store.where(name)} grows beyond {_MAX_BYTES >> 20:,} MiB: refused")
    if not unpacker.eof:
        raise UserError(f"{store.where(name)} is cut short: get it again")
    return unpacked
