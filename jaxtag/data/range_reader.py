"""Ranges of neighboring records out of ArrayRecord files, in few large reads."""

import bisect
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from array_record.python import array_record_module

_MAX_OPEN = 128  # files
# Without these the reader makes a request for each record.
_OPTIONS = f"readahead_buffer_size:{16 << 20},max_parallelism:1"


class RangeReader:
    """Reads ranges of the records that lie in some files, one file after the other.

    Args:
        instructions: tfds's, of a split: each a file and the records of it that belong to it.
    """

    def __init__(self, instructions: Sequence[Any]):
        self._files = [(os.fspath(item.filename), item.skip, item.take) for item in instructions]
        self._ends = list(itertools.accumulate(length for _, _, length in self._files))
        self._readers: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Yields the encoded records `start` … `stop - 1`."""
        number = bisect.bisect_right(self._ends, start)
        while start < stop:
            path, skip, length = self._files[number]
            end = min(stop, self._ends[number])
            first = skip + start - (self._ends[number] - length)
            yield from self._open(path).read(first, first + end - start)
            start, number = end, number + 1

    def _open(self, path: str) -> Any:
        with self._lock:
            reader = self._readers.pop(path, None)
            if reader is None:
                reader = array_record_module.ArrayRecordReader(path, _OPTIONS)
            self._readers[path] = reader
            if len(self._readers) > _MAX_OPEN:
                self._readers.popitem(last=False)
        return reader
