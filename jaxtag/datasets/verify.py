"""Reads and verifies images on all cores, in order, and reports those that are left out."""

import hashlib
import itertools
import json
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from jaxtag.data.decode import decode, open_image
from jaxtag.data.image_reader import DecodeError
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.base import ImageRecord
from jaxtag.datasets.listings import encode_png
from jaxtag.datasets.strip_metadata import MetadataError, strip

_T = TypeVar("_T")
_R = TypeVar("_R")
_DIGEST_BYTES = 16
_FLUSH_EVERY = 256  # digests that a killed process may lose


def _counters() -> dict[str, Counter[int]]:
    return defaultdict(Counter)


@dataclass
class PrepareReport:
    """Counts of the images that were written, and those that were left out.

    Attributes:
        ledger: {"split", "file", "reason"} of everything left out ("split" empty if unknown), and
            with {"used": True} of what there is to know of an image that is used.
        damaged: Number of images that could not be read or decoded.
        images: Split -> number of images.
        captions: Split -> number of captions.
        labels: Split -> class, by number -> number of images that have it.
        tags: Split -> tag, by number -> number of images that have it.
        lengths: Words of a caption -> number of captions with so many.
        contents: Split -> a digest of its images and their annotations, in order.
    """

    ledger: list[dict[str, str | bool]] = field(default_factory=list)
    damaged: int = 0
    images: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[int]] = field(default_factory=_counters)
    tags: dict[str, Counter[int]] = field(default_factory=_counters)
    lengths: Counter[int] = field(default_factory=Counter)
    contents: dict[str, str] = field(default_factory=dict)

    def reject(self, split: str, file: str, reason: str) -> None:
        """Adds an entry to the ledger."""
        self.ledger.append({"split": split, "file": file, "reason": reason})

    def note(self, split: str, file: str, reason: str) -> None:
        """Adds an entry about an image that is used."""
        self.ledger.append({"split": split, "file": file, "reason": reason, "used": True})

    def accept(self, split: str, image: ImageRecord, digest: bytes) -> None:
        """Counts an image and its annotations; `digest` is that of the bytes that are stored."""
        self.images[split] += 1
        entry = json.dumps([image.file, dict(image.fields)], default=str).encode()
        so_far = self.contents.get(split, "").encode()
        self.contents[split] = VerifiedCache.digest(so_far + digest + entry).hex()
        if "captions" in image.fields:
            captions = image.fields["captions"]
            self.captions[split] += len(captions)
            self.lengths.update(len(caption.split()) for caption in captions)
        if "label" in image.fields:
            self.labels[split][image.fields["label"]] += 1
        if "tags" in image.fields:
            self.tags[split].update(image.fields["tags"])


class VerifiedCache:
    """Digests of sound images in a file, so that a preparation that was stopped can go on.

    Decoding an image costs many times what reading and writing it cost. Use it as a context
    manager, and `delete` it when the data set is complete. The file appears with the first image.

    Args:
        path: The file; what a killed process left in it is read, and appended to.
    """

    def __init__(self, path: Path):
        self._path = path
        data = path.read_bytes() if path.exists() else b""
        size = len(data) // _DIGEST_BYTES * _DIGEST_BYTES  # the last one may be cut short
        starts = range(0, size, _DIGEST_BYTES)
        self._digests = {data[start : start + _DIGEST_BYTES] for start in starts}
        self._unsaved: list[bytes] = []
        if size < len(data):
            os.truncate(path, size)

    def __enter__(self) -> "VerifiedCache":
        return self

    def __exit__(self, *exception: object) -> None:
        self._flush()

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._digests

    @staticmethod
    def digest(data: bytes) -> bytes:
        """The digest of an encoded image."""
        return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()

    def add(self, digest: bytes) -> None:
        """Adds the digest of a sound image."""
        if digest not in self._digests:
            self._digests.add(digest)
            self._unsaved.append(digest)
        if len(self._unsaved) >= _FLUSH_EVERY:
            self._flush()

    def delete(self) -> None:
        """Deletes the file."""
        self._unsaved.clear()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._unsaved:
            with self._path.open("ab") as file:
                file.write(b"".join(self._unsaved))
            self._unsaved.clear()


class ImageVerifier:
    """Yields the sound images of a split with the bytes to store; a `base.Verify`.

    Args:
        report: Filled on the way.
        cache: Images that are sound and need not be decoded; added to on the way.
        keep_exif: Store files with all their metadata.
        num_threads: Threads that read and decode (both release the GIL); all cores by default.
        tick: Called once for each image.
    """

    def __init__(
        self,
        report: PrepareReport,
        cache: VerifiedCache,
        *,
        keep_exif: bool = False,
        num_threads: int | None = None,
        tick: Callable[[], object] = lambda: None,
    ):
        self._report = report
        self._cache = cache
        self._keep_exif = keep_exif
        self._num_threads = num_threads or _num_cores()
        self._tick = tick

    def __call__(
        self, split: str, images: list[ImageRecord]
    ) -> Iterator[tuple[ImageRecord, bytes]]:
        """Verifies images in order."""
        results = _parallel_map(self._verify, images, self._num_threads)
        for image, result in zip(images, results, strict=True):
            self._tick()
            if result.reason:
                self._report.damaged += 1
                self._report.reject(split, image.file, result.reason)
                continue
            digest = result.digest or VerifiedCache.digest(result.data)
            self._report.accept(split, image, digest)
            if result.notes:
                self._report.note(split, image.file, f"read in spite of {result.notes}")
            if result.digest is not None:
                self._cache.add(result.digest)
            yield image, result.data

    def _verify(self, image: ImageRecord) -> "_Verified":
        try:
            original = data = image.load()
            if image.generated:
                return _Verified(data)
            if not self._keep_exif:
                data = _without_metadata(data)
            digest = VerifiedCache.digest(data)
            if digest not in self._cache:
                sound = _verified(data, original)
                if sound is not data:
                    data, digest = sound, VerifiedCache.digest(sound)
            notes = ", ".join(open_image(original).notes)
        except (ReadError, DecodeError) as error:
            return _Verified(b"", reason=str(error))
        return _Verified(data, digest, notes=notes)


@dataclass(frozen=True, slots=True)
class _Verified:
    """The bytes to store, their digest if they were decoded, and what is to be said of them.

    Attributes:
        reason: Why the image is left out; "" where it is not.
        notes: What is odd and harmless.
    """

    data: bytes
    digest: bytes | None = None
    reason: str = ""
    notes: str = ""


def _without_metadata(data: bytes) -> bytes:
    """The image without metadata; one whose parts cannot be followed is encoded anew, as PNG."""
    try:
        return strip(data)
    except MetadataError:
        return encode_png(decode(data))


def _verified(data: bytes, original: bytes) -> bytes:
    """The bytes to store of an image, without metadata, that is decoded here.

    libjpeg-turbo warns of some damage only where few bytes follow, so that what was appended to a
    JPEG may hide it: such an image is encoded anew, as `decode` shows it.

    Raises:
        DecodeError: It is damaged.
    """
    try:
        decode(data)
    except DecodeError:
        if data is original:
            raise
        data = encode_png(decode(original))
    return data


def _num_cores() -> int:
    """The cores that this process may use (macOS cannot say; then all)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parallel_map(
    function: Callable[[_T], _R], items: Iterable[_T], num_threads: int
) -> Iterator[_R]:
    """`map` on threads, in order, at most a few results ahead of the consumer."""
    items = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        pending = deque(
            pool.submit(function, item) for item in itertools.islice(items, 4 * num_threads)
        )
        try:
            while pending:
                result = pending.popleft().result()
                for item in itertools.islice(items, 1):
                    pending.append(pool.submit(function, item))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
