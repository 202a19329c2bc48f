"""Records to batches: decoding, targets, random streams by position, and a cache of fixed rows."""

import math
import mmap
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np

from jaxtag.data.decode import decode_into, open_image
from jaxtag.data.image_reader import MAX_PIXELS, DecodeError
from jaxtag.data.sources import DataSource, Record
from jaxtag.data.targets import Target
from jaxtag.data.transforms import ImageTransform

Batch = dict[str, Any]
# (positions in the global order, indices of records), both int [B].
BatchRows = tuple[np.ndarray, np.ndarray]
PADDING = -1  # the index of a row that no record fills
_INDEX_MASK = 2**31 - 1  # `index` of a batch is int32, as the device's numbers are
_IMAGE_STREAM = 0
_READ_AT_ONCE = 512  # records, of rows that are cached
# Below this encoded size, decoding in threads is slower than single-threaded (GIL contention: the
# lock changes hands every 10 us).
_SHORT_BYTES = 4096
_zeros = partial(np.zeros, dtype=np.uint8)


@dataclass(frozen=True)
class ExampleSpec:
    """How a record becomes a row of the batch.

    Attributes:
        image: Transforms its image; None: a batch holds no images.
        targets: Make the further arrays, by name.
        max_pixels: An image that claims more counts as broken.
        verified: Whether images were decoded whole before, by `prepare`, so that rows below a crop
            need not be; in others damage counts wherever it is.
    """

    image: ImageTransform | None
    targets: Mapping[str, Target] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS
    verified: bool = True

    @property
    def random(self) -> bool:
        """Whether a record becomes another row each time."""
        return (self.image is not None and self.image.random) or any(
            target.random for target in self.targets.values()
        )


class _FilledRow(NamedTuple):
    """The record of a row, and why its image is broken (None: it is not)."""

    record: Record
    error: str | None


class BatchLoader:
    """A function from (positions, indices) of a batch to the batch; runs in the workers."""

    def __init__(self, source: DataSource, example: ExampleSpec, seed: int):
        self._source = source
        self._example = example
        self._seed = seed
        _disable_opencv_threads()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _disable_opencv_threads()  # in a worker process

    def __call__(self, rows: BatchRows) -> Batch:
        """Makes the batch."""
        return self._load(*rows)[0]

    def _load(
        self, positions: np.ndarray, indices: np.ndarray
    ) -> tuple[Batch, dict[int, _FilledRow]]:
        """The batch, and what filled it by row."""
        batch = self._empty(indices)
        batch["epoch"][:] = self._epoch(positions)
        filled = np.flatnonzero(indices != PADDING)
        records = self._records(indices[filled]) if len(filled) else []
        return batch, self._fill(batch, filled, positions[filled], records)

    def _fill(
        self, batch: Batch, rows: np.ndarray, positions: np.ndarray, records: Sequence[Record]
    ) -> dict[int, _FilledRow]:
        """Fills rows of a batch with records."""
        image = self._example.image
        streams, filled = _Streams(self._seed), {}
        items = list(zip(rows.tolist(), positions.tolist(), records, strict=True))
        for row, position, record in items:
            if image is None:
                error = record.get("error")
            else:
                rng = streams.at(position, _IMAGE_STREAM) if image.random else None
                error = _fill_image(record, image, self._example, rng, batch["image"][row])
            filled[row] = _FilledRow(record, error)
        batch["broken"][rows] = [row.error is not None for row in filled.values()]
        batch["mask"][rows] = ~batch["broken"][rows]
        for name, target in self._example.targets.items():
            stream, rng, values = zlib.crc32(name.encode()), None, batch[name]
            for row, position, record in items:
                if target.random:
                    rng = streams.at(position, stream)
                values[row] = target(record, rng)
        return filled

    def _records(self, indices: np.ndarray) -> list[Record]:
        return self._source.__getitems__(indices.tolist())

    def _epoch(self, positions: np.ndarray) -> np.ndarray:
        return positions // max(1, len(self._source))

    def _empty(
        self,
        indices: np.ndarray,
        allocate: Callable[[tuple[int, ...]], np.ndarray] = _zeros,
    ) -> Batch:
        count, image = len(indices), self._example.image
        batch = {} if image is None else {"image": allocate((count, image.size, image.size, 3))}
        batch |= {
            "mask": np.zeros(count, np.float32),
            "broken": np.zeros(count, bool),
            "index": np.where(indices < 0, PADDING, indices & _INDEX_MASK).astype(np.int32),
            "epoch": np.zeros(count, np.int32),
        }
        for name, target in self._example.targets.items():
            batch[name] = np.repeat(target.empty[None], count, axis=0)
        return batch


class FileBatchLoader(BatchLoader):
    """A `BatchLoader` whose batches also hold the file of each row and what is wrong with it."""

    def __call__(self, rows: BatchRows) -> Batch:
        """Makes the batch."""
        batch, filled = self._load(*rows)
        no_row = _FilledRow({"file": ""}, None)
        entries = [filled.get(row, no_row) for row in range(len(batch["index"]))]
        batch["file"] = [entry.record["file"] for entry in entries]
        batch["error"] = [entry.error or "" for entry in entries]
        return batch


class CachedBatchLoader:
    """A function from the number of a batch to the batch, of rows that are the same each time.

    Each row is made once. It is meant for one calling thread: handing out rows takes so little
    that a second one would wait for Python's lock longer than it gains.

    Args:
        source: The records.
        example: What a row holds; nothing in it is random.
        batch_rows: From the number of a batch to its positions and indices.
        num_threads: Threads that decode, where images are large enough for more than one.
    """

    def __init__(
        self,
        source: DataSource,
        example: ExampleSpec,
        batch_rows: Callable[[int], BatchRows],
        num_threads: int,
    ):
        self._loader = BatchLoader(source, example, seed=0)
        self._batch_rows = batch_rows
        self._rows = self._loader._empty(np.arange(len(source)), _lazily_allocated_zeros)
        self._is_filled = np.zeros(len(source), bool)
        self._read_ahead: dict[int, Record] = {}
        self._lock = threading.Lock()
        self._num_threads = num_threads
        self._pool = futures.ThreadPoolExecutor(num_threads)

    def __call__(self, batch: int) -> Batch:
        """Makes the batch, of rows from the cache where they are in it."""
        positions, indices = self._batch_rows(batch)
        if not self._is_filled[indices].all():
            with self._lock:
                self._fill(batch, indices)
        rows = {name: values[indices] for name, values in self._rows.items()}
        return rows | {"epoch": self._loader._epoch(positions).astype(np.int32)}

    def _fill(self, batch: int, indices: np.ndarray) -> None:
        # Looked up here: the thread of an iterator that was just closed may have filled some.
        new = np.unique(indices[~self._is_filled[indices]])
        if any(index not in self._read_ahead for index in new.tolist()):
            self._read(batch)
        records = [self._read_ahead.pop(index) for index in new.tolist()]
        if all(_encoded_bytes(record) <= _SHORT_BYTES for record in records):
            self._fill_part(new, records, slice(None))
        else:
            parts = [slice(first, None, self._num_threads) for first in range(self._num_threads)]
            list(self._pool.map(partial(self._fill_part, new, records), parts))
        self._is_filled[new] = True

    def _fill_part(self, new: np.ndarray, records: list[Record], part: slice) -> None:
        self._loader._fill(self._rows, new[part], new[part], records[part])

    def _read(self, batch: int) -> None:
        """Reads records of this batch and those after it: many at once take a fifth of the time."""
        indices = self._batch_rows(batch)[1]
        while len(indices) < min(_READ_AT_ONCE, len(self._is_filled)):
            batch += 1
            indices = np.concatenate([indices, self._batch_rows(batch)[1]])
        new = np.unique(indices[~self._is_filled[indices]])
        self._read_ahead = dict(zip(new.tolist(), self._loader._records(new), strict=True))


class _Streams:
    """Random numbers by (seed, position in the global order, purpose), whoever asks and when.

    One counter-based generator (Philox; Salmon et al. 2011) set anew each time, which costs a
    fifth of making one.
    """

    def __init__(self, seed: int):
        self._bits = np.random.Philox(key=[seed % 2**64, 0])
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def at(self, position: int, purpose: int) -> np.random.Generator:
        """The generator at the start of its stream; valid until the next call."""
        self._state["state"]["key"][1] = position
        self._state["state"]["counter"][:] = (0, 0, 0, purpose)
        self._state["buffer_pos"] = 4  # nothing left over from the stream before
        self._state["has_uint32"] = 0
        self._bits.state = self._state
        return self._generator


def _disable_opencv_threads() -> None:
    """Turns off OpenCV's own threads in this process: beside the loader's they only contend."""
    cv2.setNumThreads(0)


def _encoded_bytes(record: Record) -> int:
    """Of the image; 0 for an array, which needs no decoding."""
    return 0 if isinstance(record["image"], np.ndarray) else len(record["image"])


def _lazily_allocated_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 zeros that take no memory before they are written to.

    In huge pages where there are any: rows written here and there met a new page of 4 KiB each,
    which took half as long as decoding the image.
    """
    memory = mmap.mmap(-1, math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8).reshape(shape)


def _fill_image(
    record: Record,
    transform: ImageTransform,
    example: ExampleSpec,
    rng: np.random.Generator | None,
    out: np.ndarray,
) -> str | None:
    """Decodes and transforms into `out`; a broken image leaves zeros and gives the reason."""
    if record.get("error"):
        return record["error"]
    data = record["image"]
    if transform.full_image and decode_into(data, out):
        return None
    try:
        reader = open_image(data, max_pixels=example.max_pixels, whole=not example.verified)
        transform(reader, rng, out)
    except DecodeError as error:
        out[...] = 0
        return str(error)
    return None
