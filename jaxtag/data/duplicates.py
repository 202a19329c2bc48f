"""Images that are there twice, look alike or were taken in a burst.

Per image a difference hash (the signs of the horizontal differences of a 9 x 8 gray image, 64 bits)
and an 8 x 8 thumbnail in color are kept. Hashes that differ in few bits are found by their bands:
of two that differ in at most 4 bits, one of 5 bands is the same (the pigeonhole principle).
"""

import datetime
import hashlib
import itertools
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from jaxtag.data import files
from jaxtag.data.decode import decode, open_image
from jaxtag.data.image_reader import DecodeError

_HASH_WIDTH, _HASH_HEIGHT, _THUMBNAIL = 9, 8, 8
_DECODED = 64  # pixels of the shorter side from which hash and thumbnail are made
_SIMILAR_BITS, _SIMILAR_LEVELS = 4, 6.0
_BURST_BITS, _BURST_LEVELS, _BURST_SECONDS = 18, 24.0, 2.0
_BANDS = (13, 13, 13, 13, 12)  # bits; one more than the bits that may differ
_EXIF_IFD, _MODEL, _TIME, _SUBSECOND = 0x8769, 0x0110, 0x9003, 0x9291
# From the strongest: what an image has in common with the first of its group.
SAME_BYTES, SAME_PIXELS, SIMILAR, BURST = "same bytes", "same pixels", "similar", "burst"


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of an image.

    Attributes:
        num_bytes: of the file.
        digest: of the file's bytes.
        size: (width, height) upright.
        bits: difference hash, 64 bits.
        thumbnail: uint8 [8, 8, 3].
        time: seconds since 1970 by the camera's clock; None where it does not say.
        camera: its model, "" where it does not say.
    """

    file: str
    num_bytes: int
    digest: bytes
    size: tuple[int, int]
    bits: int
    thumbnail: np.ndarray
    time: float | None
    camera: str

    @property
    def time_text(self) -> str:
        """The camera's time, as 2024-07-15 14:30:22; "" where it is unknown."""
        if self.time is None:
            return ""
        return datetime.datetime.fromtimestamp(self.time, datetime.UTC).strftime("%F %T")


@dataclass(frozen=True)
class Member:
    """An image of a group.

    Attributes:
        relation: to the first image of the group, the largest; "" of that image.
    """

    image: Fingerprint
    relation: str


def fingerprint(file: str) -> Fingerprint | None:
    """The fingerprint of an image; None where it cannot be read."""
    record = files.read(file)
    if record["error"]:
        return None
    data: bytes = record["image"]
    try:
        reader = open_image(data)
        size = (reader.width, reader.height)
        pixels = decode(data, min_size=_DECODED)
    except DecodeError:
        return None
    area = cv2.INTER_AREA
    gray = cv2.cvtColor(
        cv2.resize(pixels, (_HASH_WIDTH, _HASH_HEIGHT), interpolation=area), cv2.COLOR_RGB2GRAY
    )
    signs = (gray[:, 1:] > gray[:, :-1]).flatten()
    thumbnail = cv2.resize(pixels, (_THUMBNAIL, _THUMBNAIL), interpolation=area)
    time, camera = _exposure(file)
    return Fingerprint(
        file=file,
        num_bytes=len(data),
        digest=hashlib.blake2b(data, digest_size=16).digest(),
        size=size,
        bits=int.from_bytes(np.packbits(signs).tobytes(), "big"),
        thumbnail=thumbnail,
        time=time,
        camera=camera,
    )


def find_groups(images: Sequence[Fingerprint]) -> list[list[Member]]:
    """Groups of images that belong together, in the order of their first files.

    The first image of a group has the most pixels, then the most bytes. Files are read again where
    only their pixels can tell whether two are the same.
    """
    parents = list(range(len(images)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    for one, other in _pairs(images):
        parents[max(root(one), root(other))] = min(root(one), root(other))
    groups = defaultdict(list)
    for number, image in enumerate(images):
        groups[root(number)].append(image)
    return [_group(members) for members in groups.values() if len(members) > 1]


def _group(images: list[Fingerprint]) -> list[Member]:
    def key(image: Fingerprint) -> tuple[int, int]:
        return image.size[0] * image.size[1], image.num_bytes

    first = max(images, key=key)
    others = sorted((i for i in images if i is not first), key=key, reverse=True)
    return [Member(first, ""), *(Member(image, _relation(first, image)) for image in others)]


def _relation(one: Fingerprint, other: Fingerprint) -> str:
    if one.digest == other.digest:
        return SAME_BYTES
    if one.size == other.size and one.bits == other.bits and _same_pixels(one.file, other.file):
        return SAME_PIXELS
    if one.time is None or other.time is None:
        return SIMILAR
    return SIMILAR if _are_alike(one, other, _SIMILAR_BITS, _SIMILAR_LEVELS) else BURST


def _same_pixels(one: str, other: str) -> bool:
    try:
        pixels = [decode(files.read(file)["image"]) for file in (one, other)]
    except DecodeError:
        return False
    return np.array_equal(pixels[0], pixels[1])


def _look_alike(one: Fingerprint, other: Fingerprint) -> bool:
    difference = np.abs(one.thumbnail.astype(np.int16) - other.thumbnail)
    return float(difference.mean()) <= _SIMILAR_LEVELS


def _are_alike(one: Fingerprint, other: Fingerprint, bits: int, levels: float) -> bool:
    if (one.bits ^ other.bits).bit_count() > bits:
        return False
    difference = np.abs(one.thumbnail.astype(np.int16) - other.thumbnail)
    return float(difference.mean()) <= levels


def _pairs(images: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Pairs that connect the images of a group."""
    yield from _chains((image.digest, number) for number, image in enumerate(images))
    yield from _similar_pairs(images)
    taken: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for number, image in enumerate(images):
        if image.time is not None:
            taken[image.camera].append((image.time, number))
    for times in taken.values():
        times.sort()
        for (before, one), (after, other) in itertools.pairwise(times):
            if after - before <= _BURST_SECONDS and _are_alike(
                images[one], images[other], _BURST_BITS, _BURST_LEVELS
            ):
                yield one, other


def _chains(items: Iterable[tuple[Any, int]]) -> Iterator[tuple[int, int]]:
    """Connects each number with the last one of the same key."""
    last: dict[Any, int] = {}
    for key, number in items:
        if key in last:
            yield last[key], number
        last[key] = number


def _similar_pairs(images: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes differ in few bits and whose thumbnails are alike."""
    by_bits: defaultdict[int, list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        by_bits[image.bits].append(number)
    looks: dict[int, list[int]] = {}  # hash -> one image of each look
    for bits, numbers in by_bits.items():
        looks[bits] = []
        for number in numbers:
            same = next((n for n in looks[bits] if _look_alike(images[n], images[number])), None)
            if same is None:
                looks[bits].append(number)
            else:
                yield same, number
    shift = 0
    for width in _BANDS:
        bands: defaultdict[int, list[int]] = defaultdict(list)
        for bits in looks:
            bands[bits >> shift & ((1 << width) - 1)].append(bits)
        for hashes in bands.values():
            for bits, other_bits in _near(hashes):
                for one, other in itertools.product(looks[bits], looks[other_bits]):
                    if _look_alike(images[one], images[other]):
                        yield one, other
        shift += width


def _near(hashes: list[int]) -> Iterator[tuple[int, int]]:
    """Pairs of hashes that differ in at most 4 bits."""
    array = np.array(hashes, np.uint64)
    for position in range(len(hashes) - 1):
        distances = np.bitwise_count(array[position + 1 :] ^ array[position])
        for offset in np.flatnonzero(distances <= _SIMILAR_BITS).tolist():
            yield hashes[position], hashes[position + 1 + offset]


def _exposure(file: str) -> tuple[float | None, str]:
    """When and by which camera an image was taken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file) as image:
                exif = image.getexif()
                details = exif.get_ifd(_EXIF_IFD)
            text = str(details.get(_TIME, "")).strip("\0 ")
            time = datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
            fraction = str(details.get(_SUBSECOND, "")).strip("\0 ")
            seconds = float(f"0.{fraction}") if fraction.isdecimal() else 0.0
            camera = str(exif.get(_MODEL, "")).strip("\0 ")
        except Exception:  # no EXIF, or a damaged one: Pillow raises many kinds
            return None, ""
    return time.replace(tzinfo=datetime.UTC).timestamp() + seconds, camera
