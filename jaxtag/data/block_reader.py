"""Records by blocks of neighbors, each read whole and kept until its records were taken."""

import dataclasses
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np

from jaxtag.data.batching import Batch, BatchLoader, ExampleSpec
from jaxtag.data.samplers import BlockRows, BlockShuffleSampler
from jaxtag.data.sources import DataSource, Record

_READ_THREADS = 8
_BATCHES_AHEAD = 8  # whose blocks are read in advance

_BlockKey = tuple[int, int, int, int]  # lane of the batch, window, start, length


@dataclasses.dataclass
class _Block:
    """A block that is read or being read."""

    records: futures.Future[list[Record]]
    num_left: int  # records not taken yet


class BlockReader:
    """Takes the records of batches out of blocks, which it reads ahead, each once.

    It holds the window of each lane that its rows are of. Threads may call it at a time.

    Args:
        source: The records; of one with `read_range(start, stop)`, that reads the blocks.
        sampler: Says which block holds a row.
    """

    def __init__(self, source: DataSource, sampler: BlockShuffleSampler):
        self._source, self._sampler = source, sampler
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._pool = futures.ThreadPoolExecutor(_READ_THREADS)
        self._blocks: dict[int, dict[_BlockKey, _Block]] = defaultdict(dict)  # by lane
        self._located: dict[int, BlockRows] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_source": self._source, "_sampler": self._sampler}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def take(self, batch: int, rows: np.ndarray) -> tuple[np.ndarray, list[Record]]:
        """The indices and records of some rows of a batch, always the same, in their order."""
        with self._lock:
            located = self._locate(batch, rows)
            blocks = [self._request(key) for key in _keys(located)]
            for ahead in range(batch + 1, batch + 1 + _BATCHES_AHEAD):
                if ahead not in self._located:
                    for key in _keys(self._locate(ahead, rows)):
                        self._request(key)
            self._located = {n: at for n, at in self._located.items() if n >= batch}
        offsets = located.offsets.tolist()
        pairs = zip(blocks, offsets, strict=True)
        records = [block.records.result()[offset] for block, offset in pairs]
        with self._lock:
            self._release(_keys(located), blocks)
        return located.indices, records

    def _locate(self, batch: int, rows: np.ndarray) -> BlockRows:
        if batch not in self._located:
            self._located[batch] = self._sampler.locate(batch, rows)
        return self._located[batch]

    def _request(self, key: _BlockKey) -> _Block:
        lane, _, start, length = key
        blocks = self._blocks[lane]
        if key not in blocks:
            blocks[key] = _Block(self._pool.submit(self._read, start, length), length)
        return blocks[key]

    def _release(self, keys: Sequence[_BlockKey], blocks: Sequence[_Block]) -> None:
        """Drops blocks of which each record was taken, and those of windows long past.

        The latter are what a resumed run had taken before, or rows of another process.
        """
        for key, block in zip(keys, blocks, strict=True):
            lane, window, _, _ = key
            block.num_left -= 1
            if not block.num_left:
                self._blocks[lane].pop(key, None)
            for old in [other for other in self._blocks[lane] if other[1] < window - 1]:
                del self._blocks[lane][old]

    def _read(self, start: int, length: int) -> list[Record]:
        count = len(self._source)
        stop = min(start + length, count)
        records = self._read_range(start, stop)
        if start + length > count:  # the rest is at the beginning
            records += self._read_range(0, start + length - count)
        return records

    def _read_range(self, start: int, stop: int) -> list[Record]:
        read = getattr(self._source, "read_range", None)
        return read(start, stop) if read else self._source.__getitems__(range(start, stop))


def _keys(located: BlockRows) -> list[_BlockKey]:
    columns = (located.lanes, located.windows, located.starts, located.lengths)
    return list(zip(*(column.tolist() for column in columns), strict=True))


class BlockBatchLoader(BatchLoader):
    """A function from the number of a part of a batch to that part, of records read by blocks.

    Part p of each batch is always of the same lanes. grain gives element n to worker n modulo their
    number, so that with as many parts as workers each reads the blocks of its own lanes alone.

    Args:
        source, example, seed: As of `BatchLoader`.
        sampler: The order of the records.
        batch_size: Of the global batch.
        rows: Of the global batch, for this process.
        num_parts: Of a batch.
    """

    def __init__(
        self,
        source: DataSource,
        example: ExampleSpec,
        seed: int,
        *,
        sampler: BlockShuffleSampler,
        batch_size: int,
        rows: np.ndarray,
        num_parts: int,
    ):
        super().__init__(source, example, seed)
        self._batch_size = batch_size
        self._parts = np.array_split(rows, num_parts)
        self._readers = [BlockReader(source, sampler) for _ in self._parts]

    def load_part(self, number: int) -> Batch:
        """Makes part `number % num_parts` of batch `number // num_parts`."""
        batch, part = divmod(number, len(self._parts))
        rows = self._parts[part]
        positions = batch * self._batch_size + rows
        indices, records = self._readers[part].take(batch, rows)
        values = self._empty(indices)
        values["epoch"][:] = self._epoch(positions)
        self._fill(values, np.arange(len(rows)), positions, records)
        return values
