"""Records to batches: a global order from the seed alone, decoding in workers, exact resume."""

import os
import sys
from collections.abc import Callable, Sequence

import grain
import numpy as np
from absl import flags

from jaxtag.data.batching import (
    PADDING,
    Batch,
    BatchLoader,
    CachedBatchLoader,
    ExampleSpec,
    FileBatchLoader,
    Records,
)
from jaxtag.data.decode import MAX_PIXELS
from jaxtag.data.files import FileRecords, list_files
from jaxtag.data.samplers import ShuffleSampler
from jaxtag.data.transforms import ImageTransform
from jaxtag.errors import UserError

_SHARED_FROM_BYTES = 1 << 16
_KEPT_BYTES = 512 << 20


def train_batches(
    source: Records,
    *,
    example: ExampleSpec,
    batch_size: int,
    seed: int,
    order: Callable[[int], np.ndarray] | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
    threads: int = 2,
    buffer: int = 2,
) -> "BatchIterator":
    """Endless shuffled batches, the rows of this process.

    Row j of global batch t is the record `order(t)[j]`, and what is random of it depends on `seed`
    and on its place in the stream, `t * batch_size + j`, alone, whichever process holds it. Threads
    of this process keep rows that are the same each time, up to 512 MiB of them: they are read and
    decoded once.

    Args:
        source: the records.
        example: what a row holds.
        batch_size: global.
        seed: of order, crops and captions.
        order: from the number of a batch to its records, int [batch_size]; by default a
            `ShuffledOrder`.
        rows: of the global batch that are for this process, ascending; by default all.
        workers: processes that decode; 0: threads of this process.
        threads: threads that decode in each process that decodes, each a batch of its own (or, of
            rows that are kept, a part of the batch); 0: the one that asks, when it asks.
        buffer: batches ready ahead for each thread or worker (the memory this takes).

    Returns:
        Iterator of dicts with local batch B: `image` uint8 [B, S, S, 3], each field of
        `example` [B, …], `mask` float32 [B], `broken` bool [B], `index` int32 [B] (the record) and
        `epoch` int32 [B] (how many passes over the source were over by then).
    """
    if len(source) == 0:
        raise UserError("the training split is empty: there is nothing to train on")
    own = _own_rows(batch_size, rows)
    order = order or ShuffleSampler(len(source), batch_size=batch_size, seed=seed)

    def take(batch: int) -> tuple[np.ndarray, np.ndarray]:
        return batch * batch_size + own, order(batch)[own]

    numbers = grain.MapDataset.range(sys.maxsize)
    if not workers and not example.random and _bytes(source, example) <= _KEPT_BYTES:
        batches = numbers.map(CachedBatchLoader(source, example, take, max(1, threads)))
        threads, buffer = min(1, threads), buffer * threads
    else:
        batches = numbers.map(take).map(BatchLoader(source, example, seed))
    return BatchIterator(batches, workers=workers, threads=threads, buffer=buffer)


def eval_batches(
    source: Records,
    *,
    example: ExampleSpec,
    batch_size: int,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
    threads: int = 2,
    buffer: int = 2,
) -> "BatchIterator":
    """Every record once, in order, over all processes; each gets `ceil(N / batch_size)` batches.

    Rows beyond the last record have `mask` 0 and `index` -1. Arguments and batches as in
    `train_batches`; what a row draws at random depends on its index alone.
    """
    order = _in_order(len(source), batch_size, rows)
    batches = order.map(BatchLoader(source, example, seed=0))
    return BatchIterator(batches, workers=workers, threads=threads, buffer=buffer)


def file_batches(
    paths: Sequence[str | os.PathLike],
    *,
    image: ImageTransform,
    batch_size: int,
    workers: int = 0,
    threads: int = 2,
    buffer: int = 2,
    max_pixels: int = MAX_PIXELS,
) -> "BatchIterator":
    """Pictures from files, folders and patterns (see `files.list_files`), in order, each once.

    Returns:
        Iterator of batches as of `eval_batches` with two lists of a batch's length besides:
        `file` (its path; "" in rows of padding) and `error` (why it is broken, else "").
    """
    records = FileRecords(list_files(paths))
    load = FileBatchLoader(records, ExampleSpec(image, max_pixels=max_pixels), seed=0)
    return BatchIterator(
        _in_order(len(records), batch_size).map(load),
        workers=workers,
        threads=threads,
        buffer=buffer,
    )


class BatchIterator(grain.DatasetIterator):
    """Batches with an exact, portable state: how many were taken.

    The state holds for any number of workers, threads and processes (with the same global batch
    size): it is the same on all of them. It goes through `grain.checkpoint.CheckpointSave`.
    """

    def __init__(self, batches: grain.MapDataset, *, workers: int, threads: int, buffer: int):
        super().__init__()
        self._batches = batches
        self._workers = workers
        self._read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * buffer)
        self._buffer = buffer
        self._taken = 0
        self._iterator = None

    def __next__(self) -> Batch:
        self.start_prefetch()
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise UserError(
                f"a data worker died ({error}): often it was killed for want of memory; use "
                "fewer workers, a smaller buffer or a smaller batch"
            ) from error
        self._taken += 1
        return batch

    def start_prefetch(self) -> None:
        """Starts decoding ahead, before the first batch is asked for."""
        if self._iterator is None:
            self._iterator = self._start()
            self._iterator.start_prefetch()

    def _start(self) -> grain.DatasetIterator:
        # A slice that starts where we are, instead of the state of the workers: theirs would
        # bind a checkpoint to their number.
        ahead = self._batches[self._taken :].to_iter_dataset(self._read)
        if self._workers:
            _parse_flags()
            options = grain.MultiprocessingOptions(
                num_workers=self._workers, per_worker_buffer_size=self._buffer
            )
            # Only pictures are worth shared memory: it costs a file for each array.
            small = grain.experimental.DatasetOptions(min_shm_size=_SHARED_FROM_BYTES)
            ahead = grain.experimental.WithOptionsIterDataset(ahead, small).mp_prefetch(options)
        return iter(ahead)

    def get_state(self) -> dict[str, int]:
        """{"batches": how many were taken}."""
        return {"batches": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to where `get_state` was called; what was decoded ahead is dropped."""
        self.close()
        self._taken = int(state["batches"])

    def close(self) -> None:
        """Stops the workers; a later `next` starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def _bytes(source: Records, example: ExampleSpec) -> int:
    """Of all rows together."""
    fields = sum(field.empty.nbytes for field in example.fields.values())
    return len(source) * (3 * example.image.size**2 + fields)


def _in_order(
    count: int, batch_size: int, rows: Sequence[int] | np.ndarray | None = None
) -> grain.MapDataset:
    """(positions, indices) of the batches of this process that hold 0 … count - 1 once."""
    own = _own_rows(batch_size, rows)

    def rows_of(batch: int) -> tuple[np.ndarray, np.ndarray]:
        index = batch * batch_size + own
        return index, np.where(index < count, index, PADDING)

    return grain.MapDataset.range(-(-count // batch_size)).map(rows_of)


def _own_rows(batch_size: int, rows: Sequence[int] | np.ndarray | None) -> np.ndarray:
    return np.arange(batch_size) if rows is None else np.asarray(rows)


def _parse_flags() -> None:
    """Lets grain read its absl flags also in programs that never parse any."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
