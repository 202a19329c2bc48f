"""Reads and examines pictures on all cores, in order, and keeps account of those left out."""

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from jaxtag.data.decode import DecodeError, decode
from jaxtag.datasets.archives import ReadError
from jaxtag.datasets.base import ImageRecord
from jaxtag.datasets.exif import MetadataError
from jaxtag.datasets.strip_metadata import strip
from jaxtag.datasets.verified_cache import VerifiedCache

_T, _R = TypeVar("_T"), TypeVar("_R")


def _counters() -> dict[str, collections.Counter]:
    return collections.defaultdict(collections.Counter)


@dataclass
class PrepareReport:
    """What happened to the pictures.

    Attributes:
      ledger: one {"split", "file", "reason"} for everything left out ("split" empty if unknown).
      damaged: pictures that could not be read or decoded.
      pictures, captions: split -> how many were kept.
      labels, tags: split -> class or tag, by number -> pictures that have it.
      lengths: words of a caption -> how many captions have so many.
    """

    ledger: list[dict[str, str]] = field(default_factory=list)
    damaged: int = 0
    pictures: collections.Counter = field(default_factory=collections.Counter)
    captions: collections.Counter = field(default_factory=collections.Counter)
    labels: dict[str, collections.Counter] = field(default_factory=_counters)
    tags: dict[str, collections.Counter] = field(default_factory=_counters)
    lengths: collections.Counter = field(default_factory=collections.Counter)

    def leave_out(self, split: str, file: str, reason: str) -> None:
        self.ledger.append({"split": split, "file": file, "reason": reason})

    def keep(self, split: str, picture: ImageRecord) -> None:
        self.pictures[split] += 1
        if "captions" in picture.fields:
            captions = picture.fields["captions"]
            self.captions[split] += len(captions)
            self.lengths.update(len(caption.split()) for caption in captions)
        if "label" in picture.fields:
            self.labels[split][picture.fields["label"]] += 1
        if "tags" in picture.fields:
            self.tags[split].update(picture.fields["tags"])


class ImageVerifier:
    """Calls give the sound pictures of a split with the bytes to store; see `base.Check`.

    Args:
      account: filled on the way.
      examined: pictures that are known to be sound and need not be decoded; added to on the way.
      keep_exif: store files with all their metadata.
      workers: threads (decoding and reading free the interpreter's lock); all cores by default.
      tick: called once for each picture done.
    """

    def __init__(
        self,
        account: PrepareReport,
        examined: VerifiedCache,
        *,
        keep_exif: bool = False,
        workers: int | None = None,
        tick: Callable[[], object] = lambda: None,
    ):
        self._account = account
        self._examined = examined
        self._keep_exif = keep_exif
        self._workers = workers or _cores()
        self._tick = tick

    def __call__(
        self, split: str, pictures: list[ImageRecord]
    ) -> Iterator[tuple[ImageRecord, bytes]]:
        results = _parallel(self._examine, pictures, self._workers)
        for picture, (data, digest, reason) in zip(pictures, results, strict=True):
            self._tick()
            if reason:
                self._account.damaged += 1
                self._account.leave_out(split, picture.file, reason)
            else:
                self._account.keep(split, picture)
                if digest is not None:
                    self._examined.add(digest)
                yield picture, data

    def _examine(self, picture: ImageRecord) -> tuple[bytes, bytes | None, str]:
        """The bytes to store, their digest if they were looked at, and the reason against them."""
        unstripped = ""
        try:
            data = picture.load()
            if picture.made:
                return data, None, ""
            if not self._keep_exif:
                try:
                    data = strip(data)
                except MetadataError as error:
                    unstripped = f"personal metadata cannot be taken out ({error}); see --keep_exif"
            digest = VerifiedCache.digest(data)
            if digest not in self._examined:
                decode(data)
        except (ReadError, DecodeError) as error:
            return b"", None, str(error)
        return data, digest, unstripped


def _cores() -> int:
    """The cores that this process may use (macOS cannot say; then all)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parallel(function: Callable[[_T], _R], items: Iterable[_T], workers: int) -> Iterator[_R]:
    """`map` on threads, in order, at most a few results ahead of the one who asks."""
    items = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        ahead = collections.deque(
            pool.submit(function, item) for item in itertools.islice(items, 4 * workers)
        )
        try:
            while ahead:
                result = ahead.popleft().result()
                for item in itertools.islice(items, 1):
                    ahead.append(pool.submit(function, item))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
