"""MNIST from its four official files, packed with gzip or not.

LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition, 1998.
"""

import math
import re
import struct
import zlib
from typing import ClassVar

import numpy as np

from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.checksums import content_warnings
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.listings import LabelListing
from jaxtag.datasets.source_files import SourceFiles
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


class Mnist(ImageDatasetBuilder):
    """MNIST: handwritten digits, 28x28 pixels in gray, by their number from 0 to 9."""

    name = "mnist"
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
    CITATION = "LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 86(11), 1998"
    NUM_LABELS = 10
    COUNTS: ClassVar = {"train": 60_000, "test": 10_000}

    @staticmethod
    def accepts_archive(name: str) -> bool:
        return bool(re.search(r"(?i)mnist", name))

    @classmethod
    def list_images(cls, source: SourceFiles) -> LabelListing:
        digits = [str(digit) for digit in range(10)]
        listing = LabelListing("official IDX files", {"label": digits})
        for split, part in _PARTS.items():
            image_file, images = _read(listing, source, f"{part}-images", dimensions=3)
            label_file, labels = _read(listing, source, f"{part}-labels", dimensions=1)
            if len(images) != len(labels):
                raise UserError(
                    f"{source.where(image_file)} has {len(images):,} images, but "
                    f"{source.where(label_file)} has {len(labels):,} labels"
                )
            if labels.max(initial=0) > 9:
                index = int(labels.argmax())
                raise UserError(
                    f"{source.where(label_file)}: label {labels[index]} (number {index:,}) is no "
                    "digit from 0 to 9: get the file again"
                )
            listing.add_pixels(split, images, {"label": labels})
        return listing


def _find(source: SourceFiles, part: str, kind: str) -> str:
    """The path of a file under any of its names: with '-' or '.', with .gz or without."""
    names = [f"{part}{joint}{kind}{suffix}" for suffix in ("", ".gz") for joint in "-."]
    path = source.first(*names)
    if path:
        return path
    raise UserError(f"{source.path} has no {names[0]} (or .gz).\n{download_instructions('mnist')}")


def _read(
    listing: LabelListing, source: SourceFiles, part: str, dimensions: int
) -> tuple[str, np.ndarray]:
    """Path and values of one file; one that differs from the published becomes a warning."""
    name = _find(source, part, f"idx{dimensions}-ubyte")
    data, where = _content(source, name), source.where(name)
    listing.warnings += content_warnings(where, data, _MD5[part])
    return name, _parse_idx(data, where, dimensions)


def _parse_idx(data: bytes, where: str, dimensions: int) -> np.ndarray:
    """uint8 array of an IDX file: a magic number, the sizes (big-endian), then the values."""
    header = 4 + 4 * dimensions
    magic = 0x0800 + dimensions  # 0x08: the values are unsigned bytes
    if len(data) < header:
        raise UserError(f"{where} is cut short ({len(data)} bytes): get the file again")
    first, *shape = struct.unpack_from(f">{1 + dimensions}I", data)
    if first != magic:
        raise UserError(
            f"{where} starts with {first:#010x} instead of {magic:#010x}: no IDX file of "
            f"unsigned bytes in {dimensions} dimension(s)"
        )
    size = math.prod(shape)
    if size != len(data) - header:
        raise UserError(
            f"{where} says it holds {' x '.join(map(str, shape))} bytes, but there are "
            f"{len(data) - header:,}: get the file again"
        )
    if size == 0:
        raise UserError(f"{where} is empty: get the file again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _content(source: SourceFiles, name: str) -> bytes:
    """The bytes of a file, unpacked from gzip where it is packed."""
    try:
        data = source.read(name, _MAX_BYTES)
    except ReadError as error:
        raise UserError(f"{source.where(name)}: {error}") from error
    if not data.startswith(b"\x1f\x8b"):
        return data
    # Not gzip.decompress, which has no limit.
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = decompressor.decompress(data, _MAX_BYTES)
    except zlib.error as error:
        raise UserError(f"{source.where(name)} is damaged ({error}): get it again") from error
    if decompressor.unconsumed_tail:
        raise UserError(f"{source.where(name)} grows beyond {_MAX_BYTES >> 20:,} MiB: refused")
    if not decompressor.eof:
        raise UserError(f"{source.where(name)} is cut short: get it again")
    return content
