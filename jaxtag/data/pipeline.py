"""Records to batches: a global order from the seed alone, decoding in workers, exact resume."""

import sys
import time
from collections.abc import Callable, Sequence

import grain
import numpy as np
from absl import flags

from jaxtag.data import shared_memory
from jaxtag.data.batching import (
    PADDING,
    Batch,
    BatchLoader,
    BatchRows,
    CachedBatchLoader,
    ExampleSpec,
    FileBatchLoader,
)
from jaxtag.data.block_reader import BlockBatchLoader
from jaxtag.data.files import ImageSource
from jaxtag.data.image_reader import MAX_PIXELS
from jaxtag.data.samplers import BlockShuffleSampler, ShuffleSampler
from jaxtag.data.sources import DataSource
from jaxtag.data.stored_images import StoredImage
from jaxtag.data.transforms import ImageTransform
from jaxtag.errors import TransientError, UserError

_SHARED_FROM_BYTES = 1 << 16
_CACHE_BYTES = 512 << 20


def train_batches(
    source: DataSource,
    *,
    example: ExampleSpec,
    batch_size: int,
    seed: int,
    sampler: Callable[[int], np.ndarray] | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
    num_workers: int | str = 0,
    num_threads: int = 2,
    buffer: int = 2,
) -> "BatchIterator":
    """Endless shuffled batches, the rows of this process.

    Row j of global batch t is the record `sampler(t)[j]`, and what is random of it depends on
    `seed` and on its position in the stream, `t * batch_size + j`, alone, whichever process holds
    it. Threads of this process cache rows that are the same each time, up to 512 MiB of them: they
    are read and decoded once.

    Args:
        source: The records.
        example: What a row holds.
        batch_size: Of the global batch.
        seed: Of order, crops and captions.
        sampler: From the number of a batch to its records, int [batch_size]; by default a
            `ShuffleSampler`.
        rows: The rows of the global batch that are for this process, ascending; by default all.
        num_workers: Processes that decode; 0: threads of this process; auto: threads, until
            `BatchIterator.restart` is called.
        num_threads: Threads that decode in each process that decodes, each a batch of its own (or,
            of cached rows, a part of the batch); 0: the calling thread, at each call.
        buffer: Batches decoded ahead for each thread or worker (which takes their memory).

    Returns:
        Iterator of dicts with local batch B: `image` uint8 [B, S, S, 3], each target of
        `example` [B, …], `mask` float32 [B], `broken` bool [B], `index` int32 [B] (the record,
        modulo 2^31) and `epoch` int32 [B] (how many passes over the source were over by then).

    Raises:
        UserError: The source is empty.
    """
    if len(source) == 0:
        raise UserError("the training split is empty: there is nothing to train on")
    local_rows = _local_rows(batch_size, rows)
    sampler = sampler or ShuffleSampler(len(source), batch_size=batch_size, seed=seed)

    def batch_rows(batch: int) -> BatchRows:
        return batch * batch_size + local_rows, sampler(batch)[local_rows]

    numbers = grain.MapDataset.range(sys.maxsize)
    is_small = not example.random and _total_bytes(source, example) <= _CACHE_BYTES
    if num_workers in (0, "auto") and is_small:
        loader = CachedBatchLoader(source, example, batch_rows, max(1, num_threads))
        return BatchIterator(
            numbers.map(loader),
            num_workers=0,
            num_threads=min(1, num_threads),
            buffer=buffer * num_threads,
            can_have_workers=False,
        )

    def in_parts(num_parts: int) -> grain.MapDataset:
        assert isinstance(sampler, BlockShuffleSampler)
        blocks = BlockBatchLoader(
            source,
            example,
            seed,
            sampler=sampler,
            batch_size=batch_size,
            rows=local_rows,
            num_parts=num_parts,
        )
        return numbers.map(blocks.load_part)

    return BatchIterator(
        numbers.map(batch_rows).map(BatchLoader(source, example, seed)),
        num_workers=num_workers,
        num_threads=num_threads,
        buffer=buffer,
        batch_bytes=_image_bytes(example.image, len(local_rows)),
        in_parts=in_parts if isinstance(sampler, BlockShuffleSampler) else None,
    )


def eval_batches(
    source: DataSource,
    *,
    example: ExampleSpec,
    batch_size: int,
    rows: Sequence[int] | np.ndarray | None = None,
    num_workers: int | str = 0,
    num_threads: int = 2,
    buffer: int = 2,
    seed: int = 0,
) -> "BatchIterator":
    """Every record once, in order, over all processes; each gets `ceil(N / batch_size)` batches.

    Rows beyond the last record have `mask` 0 and `index` -1. Arguments and batches as in
    `train_batches`; what a row draws at random depends on `seed` and its index alone.
    """
    batch_rows = _in_order(len(source), batch_size, rows)
    batches = batch_rows.map(BatchLoader(source, example, seed))
    return BatchIterator(
        batches,
        num_workers=num_workers,
        num_threads=num_threads,
        buffer=buffer,
        batch_bytes=_image_bytes(example.image, len(_local_rows(batch_size, rows))),
    )


def image_batches(
    images: Sequence[str | bytes | np.ndarray | StoredImage],
    *,
    image: ImageTransform,
    batch_size: int,
    num_workers: int | str = 0,
    num_threads: int = 2,
    buffer: int = 2,
    max_pixels: int = MAX_PIXELS,
    batch_numbers: Sequence[int] | None = None,
) -> "BatchIterator":
    """Images to predict, in order, each once.

    Args:
        images: Paths of files, encoded bytes, or arrays uint8 [H, W, 3].
        batch_numbers: The batches that are for this process, ascending; by default all.

    Returns:
        Iterator of batches as of `eval_batches` with two further lists of a batch's length:
        `file` (its path; "" where there is none) and `error` (why it is broken, else "").
    """
    source = ImageSource(images)
    load = FileBatchLoader(
        source, ExampleSpec(image, max_pixels=max_pixels, verified=False), seed=0
    )
    return BatchIterator(
        _in_order(len(source), batch_size, batch_numbers=batch_numbers).map(load),
        num_workers=num_workers,
        num_threads=num_threads,
        buffer=buffer,
        batch_bytes=_image_bytes(image, batch_size),
    )


class BatchIterator(grain.DatasetIterator):
    """Batches with an exact, portable state: the number of batches taken.

    The state is valid for any number of workers, threads and processes (with the same global batch
    size), and the same on all of them. It goes through `grain.checkpoint.CheckpointSave`.

    Args:
        batches: All of them.
        num_workers: Processes that make them; 0 or auto: threads of this one.
        num_threads: Of each process that makes batches.
        buffer: Batches made ahead for each thread or worker.
        batch_bytes: Of the images of a batch, which workers hand over in shared memory.
        can_have_workers: Whether processes may make them.
        in_parts: From a number of parts to all batches in so many parts each, rows after rows:
            where each worker is to make the same part of every batch.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        *,
        num_workers: int | str,
        num_threads: int,
        buffer: int,
        batch_bytes: int = 0,
        can_have_workers: bool = True,
        in_parts: Callable[[int], grain.MapDataset] | None = None,
    ):
        super().__init__()
        self._parts, self._in_parts = batches, in_parts
        self.can_have_workers = can_have_workers
        self._read_options = grain.ReadOptions(
            num_threads=num_threads, prefetch_buffer_size=num_threads * buffer
        )
        self._buffer = buffer
        self._batch_bytes = batch_bytes
        self._taken = 0
        self._iterator: grain.DatasetIterator | None = None
        self.restart(num_workers if isinstance(num_workers, int) else 0)

    def __next__(self) -> Batch:
        try:
            parts = [next(self._running_iterator()) for _ in range(self._num_parts)]
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise TransientError(
                f"a data worker died ({error}): often it was killed for want of memory "
                f"({shared_memory.describe()}); use fewer workers or a smaller batch"
            ) from error
        self._taken += 1
        return parts[0] if self._num_parts == 1 else _concatenate(parts)

    def restart(self, num_workers: int) -> None:
        """Goes on with other workers; what was decoded ahead is dropped."""
        self.close()
        self._num_workers = num_workers
        self._num_parts = max(1, num_workers) if self._in_parts else 1
        if self._in_parts:
            self._parts = self._in_parts(self._num_parts)

    def measure_decoding(self) -> float:
        """Makes a batch, which is dropped; returns the seconds that this takes of one core."""
        began, first = time.thread_time(), self._taken * self._num_parts
        for number in range(first, first + self._num_parts):
            _ = self._parts[number]
        return time.thread_time() - began

    def start_prefetch(self) -> None:
        """Starts decoding ahead, before the first batch is asked for."""
        self._running_iterator()

    def _running_iterator(self) -> grain.DatasetIterator:
        if self._iterator is None:
            self._iterator = self._start()
            self._iterator.start_prefetch()
        return self._iterator

    def _start(self) -> grain.DatasetIterator:
        # A slice that starts at the next batch, instead of the state of the workers: theirs would
        # bind a checkpoint to their number.
        dataset = self._parts[self._taken * self._num_parts :].to_iter_dataset(self._read_options)
        if self._num_workers:
            _mark_flags_as_parsed()
            if self._batch_bytes >= _SHARED_FROM_BYTES:
                # Those in a worker's buffer, and the one that it makes.
                parts_ahead = self._num_workers * (self._buffer + 1)
                shared_memory.check_room(parts_ahead * self._batch_bytes // self._num_parts)
            options = grain.MultiprocessingOptions(
                num_workers=self._num_workers, per_worker_buffer_size=self._buffer
            )
            # Only images are worth shared memory: it costs a file for each array.
            shared = grain.experimental.DatasetOptions(min_shm_size=_SHARED_FROM_BYTES)
            dataset = grain.experimental.WithOptionsIterDataset(dataset, shared)
            dataset = dataset.mp_prefetch(options)
        return iter(dataset)

    def get_state(self) -> dict[str, int]:
        """{"batches": number of batches taken}."""
        return {"batches": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues where `get_state` was called; what was decoded ahead is dropped."""
        self.close()
        self._taken = int(state["batches"])

    def close(self) -> None:
        """Stops the workers; a later `next` starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def _concatenate(parts: Sequence[Batch]) -> Batch:
    """A batch of its parts, rows after rows."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _image_bytes(image: ImageTransform | None, count: int) -> int:
    return 0 if image is None else count * 3 * image.size**2


def _total_bytes(source: DataSource, example: ExampleSpec) -> int:
    """Of all rows together."""
    targets = sum(target.empty.nbytes for target in example.targets.values())
    return _image_bytes(example.image, len(source)) + len(source) * targets


def _in_order(
    count: int,
    batch_size: int,
    rows: Sequence[int] | np.ndarray | None = None,
    batch_numbers: Sequence[int] | None = None,
) -> grain.MapDataset:
    """(positions, indices) of the batches of this process that hold 0 … count - 1 once."""
    local_rows = _local_rows(batch_size, rows)

    def batch_rows(batch: int) -> BatchRows:
        positions = batch * batch_size + local_rows
        return positions, np.where(positions < count, positions, PADDING)

    if batch_numbers is not None:
        return grain.MapDataset.source(batch_numbers).map(batch_rows)
    return grain.MapDataset.range(-(-count // batch_size)).map(batch_rows)


def _local_rows(batch_size: int, rows: Sequence[int] | np.ndarray | None) -> np.ndarray:
    return np.arange(batch_size) if rows is None else np.asarray(rows)


def _mark_flags_as_parsed() -> None:
    """Marks absl's flags as parsed in a program that never parses any, such as a notebook.

    grain's worker processes read flags of their own (as `--grain_py_debug_mode`) from the copy of
    absl's that this process gives them, and fail with UnparsedFlagAccessError otherwise. All flags
    then have their defaults. In a program that parses its flags this does nothing.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
