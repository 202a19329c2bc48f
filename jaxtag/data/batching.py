"""Records to a batch: decoding, fields, random numbers by position; rows that are kept."""

import dataclasses
import math
import mmap
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np

from jaxtag.data.decode import MAX_PIXELS, DecodeError, decode_into, open_image
from jaxtag.data.targets import Target
from jaxtag.data.transforms import ImageTransform

Batch = dict[str, Any]
PADDING = -1  # the index of a row that no record fills
_IMAGE_STREAM = 0
_READ_AT_ONCE = 512  # records, of rows that are kept
# Encoded pictures up to which threads that decode wait longer for Python's lock than they gain: the
# lock changes hands every 10 us.
_SHORT_BYTES = 4096
_zeros = partial(np.zeros, dtype=np.uint8)


class Records(Protocol):
    """What the pipeline asks of a source; it must pickle for worker processes."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]: ...


@dataclasses.dataclass(frozen=True)
class ExampleSpec:
    """How a record becomes a row of the batch: its picture and any further arrays by name."""

    image: ImageTransform
    fields: Mapping[str, Target] = dataclasses.field(default_factory=dict)
    max_pixels: int = MAX_PIXELS

    @property
    def random(self) -> bool:
        """Whether a record becomes another row each time."""
        return self.image.random or any(field.random for field in self.fields.values())


class BatchLoader:
    """(positions, indices) of a batch → the batch; runs in the workers."""

    def __init__(self, source: Records, example: ExampleSpec, seed: int):
        self._source = source
        self._example = example
        self._seed = seed

    def __call__(self, rows: tuple[np.ndarray, np.ndarray]) -> Batch:
        return self._load(*rows)[0]

    def _load(
        self, positions: np.ndarray, indices: np.ndarray
    ) -> tuple[Batch, dict[int, tuple[dict[str, Any], str | None]]]:
        """The batch, and (record, why it is broken) by row."""
        batch = self._empty(indices)
        batch["epoch"][:] = self._epoch(positions)
        filled = np.flatnonzero(indices != PADDING)
        records = self._records(indices[filled]) if len(filled) else []
        return batch, self._fill(batch, filled, positions[filled], records)

    def _fill(
        self,
        batch: Batch,
        rows: np.ndarray,
        positions: np.ndarray,
        records: list[dict[str, Any]],
    ) -> dict[int, tuple[dict[str, Any], str | None]]:
        """Makes rows of a batch; gives (record, why it is broken) by row."""
        cv2.setNumThreads(0)  # the pipeline's threads are enough; OpenCV's own only contend
        image, images = self._example.image, batch["image"]
        streams, notes = _Streams(self._seed), {}
        places = list(zip(rows.tolist(), positions.tolist(), records, strict=True))
        for row, place, record in places:
            rng = streams.at(place, _IMAGE_STREAM) if image.random else None
            notes[row] = record, _fill_image(record, self._example, rng, images[row])
        batch["broken"][rows] = [reason is not None for _, reason in notes.values()]
        batch["mask"][rows] = ~batch["broken"][rows]
        for name, field in self._example.fields.items():
            stream, rng, values = zlib.crc32(name.encode()), None, batch[name]
            for row, place, record in places:
                if field.random:
                    rng = streams.at(place, stream)
                values[row] = field(record, rng)
        return notes

    def _records(self, indices: np.ndarray) -> list[dict[str, Any]]:
        return self._source.__getitems__(indices.tolist())

    def _epoch(self, positions: np.ndarray) -> np.ndarray:
        return positions // max(1, len(self._source))

    def _empty(
        self,
        indices: np.ndarray,
        pixels: Callable[[tuple[int, ...]], np.ndarray] = _zeros,
    ) -> Batch:
        count, size = len(indices), self._example.image.size
        batch = {
            "image": pixels((count, size, size, 3)),
            "mask": np.zeros(count, np.float32),
            "broken": np.zeros(count, bool),
            "index": np.asarray(indices, np.int32),
            "epoch": np.zeros(count, np.int32),
        }
        for name, field in self._example.fields.items():
            batch[name] = np.repeat(field.empty[None], count, axis=0)
        return batch


class CachedBatchLoader(BatchLoader):
    """The number of a batch → the batch, of rows that are the same each time: each is made once.

    Made for one thread that asks: handing out rows takes so little that a second one would wait
    for Python's lock longer than it gains.

    Args:
      take: from the number of a batch to its positions and indices.
      threads: that decode, where pictures are large enough for more than one.
    """

    def __init__(
        self,
        source: Records,
        example: ExampleSpec,
        take: Callable[[int], tuple[np.ndarray, np.ndarray]],
        threads: int,
    ):
        super().__init__(source, example, seed=0)
        self._take = take
        self._rows = self._empty(np.arange(len(source)), _untouched)
        self._made = np.zeros(len(source), bool)
        self._ahead: dict[int, dict[str, Any]] = {}
        self._making = threading.Lock()
        self._threads = threads
        self._pool = futures.ThreadPoolExecutor(threads)

    def __call__(self, batch: int) -> Batch:
        positions, indices = self._take(batch)
        if not self._made[indices].all():
            with self._making:
                self._make(batch, indices)
        rows = {name: kept[indices] for name, kept in self._rows.items()}
        return rows | {"epoch": self._epoch(positions).astype(np.int32)}

    def _make(self, batch: int, indices: np.ndarray) -> None:
        # Looked up here: the thread of an iterator that was just closed may have made some.
        new = np.unique(indices[~self._made[indices]])
        if any(index not in self._ahead for index in new.tolist()):
            self._read_ahead(batch)
        records = [self._ahead.pop(index) for index in new.tolist()]
        if all(len(record["image"]) <= _SHORT_BYTES for record in records):
            self._fill(self._rows, new, new, records)
        else:
            parts = [slice(first, None, self._threads) for first in range(self._threads)]
            list(self._pool.map(partial(self._make_part, new, records), parts))
        self._made[new] = True

    def _make_part(self, new: np.ndarray, records: list[dict[str, Any]], part: slice) -> None:
        self._fill(self._rows, new[part], new[part], records[part])

    def _read_ahead(self, batch: int) -> None:
        """Reads records of this batch and those after it: many at once take a fifth of the time."""
        indices = self._take(batch)[1]
        while len(indices) < min(_READ_AT_ONCE, len(self._made)):
            batch += 1
            indices = np.concatenate([indices, self._take(batch)[1]])
        new = np.unique(indices[~self._made[indices]])
        self._ahead = dict(zip(new.tolist(), self._records(new), strict=True))


class FileBatchLoader(BatchLoader):
    """`Load` that also says which file a row is and what is wrong with it."""

    def __call__(self, rows: tuple[np.ndarray, np.ndarray]) -> Batch:
        batch, notes = self._load(*rows)
        count = len(batch["index"])
        batch["file"] = [notes[row][0]["file"] if row in notes else "" for row in range(count)]
        batch["error"] = [(row in notes and notes[row][1]) or "" for row in range(count)]
        return batch


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


def _untouched(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 zeros that take no memory before they are written to.

    In huge pages where there are any: rows written here and there met a new page of 4 KiB each,
    which took half as long as decoding the picture.
    """
    memory = mmap.mmap(-1, math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8).reshape(shape)


def _fill_image(
    record: dict[str, Any], example: ExampleSpec, rng: np.random.Generator | None, out: np.ndarray
) -> str | None:
    """Decodes and transforms into `out`; a broken picture leaves zeros and gives the reason."""
    if record.get("error"):
        return record["error"]
    data, image = record["image"], example.image
    if image.whole and decode_into(data, out):
        return None
    try:
        image(open_image(data, max_pixels=example.max_pixels), rng, out)
    except DecodeError as error:
        out[...] = 0
        return str(error)
    return None
