"""Samplers: which records a batch holds, from the seed and the batch's number alone."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxtag.data.permutation import make_key, permute
from jaxtag.errors import UsageError

_CLASS_ORDER = 0  # random stream of the order of classes; class c has the stream c + 1
_CHUNK = 8192  # positions computed at once: a small batch then costs next to nothing
_MAX_LANES = 64
# What keys of `BlockShuffleSampler` are for.
_ROTATION, _BLOCKS, _WINDOW = range(3)


class Sampler(Protocol):
    """Batch number -> its records, int [batch_size]; picklable, the same on every process."""

    def __call__(self, batch: int, /) -> np.ndarray: ...


def make_shuffle_sampler(
    shuffle: str | None,
    count: int,
    *,
    batch_size: int,
    block_size: int,
    buffer_size: int,
    seed: int,
) -> Sampler:
    """The sampler that `config.data.shuffle` names; arguments as of `BlockShuffleSampler`."""
    if shuffle == "stored":
        return StoredShuffleSampler(count, batch_size=batch_size, seed=seed)
    if shuffle == "blocks":
        return BlockShuffleSampler(
            count,
            batch_size=batch_size,
            block_size=block_size,
            buffer_size=buffer_size,
            seed=seed,
        )
    return ShuffleSampler(count, batch_size=batch_size, seed=seed)


class ShuffleSampler:
    """Every record once an epoch, each epoch in an order of its own: a keyed permutation.

    Row j of batch t is record `t * batch_size + j` of all epochs, one after the other: a batch may
    hold the end of one and the start of the next. Orders are computed, not drawn: any number of
    records takes the same memory, that of the last positions computed.

    Args:
        count: Number of records, at least 1.
        batch_size: Of the global batch.
        seed: Of all orders.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int):
        self._count, self._batch_size, self._seed = count, batch_size, seed % 2**64
        self._chunks: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_chunks": {}}

    def __call__(self, batch: int) -> np.ndarray:
        """The records of a batch, int64 [batch_size]."""
        start = batch * self._batch_size
        stop = start + self._batch_size
        first, last = start // _CHUNK, (stop - 1) // _CHUNK
        chunks = [self._chunk(number) for number in range(first, last + 1)]
        records = chunks[0] if first == last else np.concatenate(chunks)
        return records[start - first * _CHUNK : stop - first * _CHUNK]

    def _chunk(self, number: int) -> np.ndarray:
        records = self._chunks.get(number)
        if records is None:  # several threads may compute the same chunk
            positions = number * _CHUNK + np.arange(_CHUNK)
            epochs, offsets = np.divmod(positions, self._count)
            keys = make_key(self._seed, epochs)
            records = permute(offsets, self._count, keys).astype(np.int64)
            newest = sorted([*self._chunks, number])[-2:]
            self._chunks = {n: self._chunks.get(n, records) for n in newest}
        return records


class BlockRows(NamedTuple):
    """Where the records of some rows of a batch lie; all int64 [rows].

    Attributes:
        indices: Of the records.
        lanes: Of the batch.
        windows: How many windows the row's lane has left behind.
        starts, lengths: The row's block: the records start … start + length - 1, modulo the number
            of records.
        offsets: Of the records in their blocks.
    """

    indices: np.ndarray
    lanes: np.ndarray
    windows: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray


class BlockShuffleSampler:
    """Every record once an epoch, in blocks of neighbors, for records that are costly to seek.

    The rows of a batch are split into lanes, equal groups of neighboring rows. Each epoch rotates
    the records by a random number and gives each lane an equal stretch of them, which the lane
    takes in blocks in a random order. A few blocks at a time are its window, whose records come in
    a random order. So a batch holds records from all over the data set, while a process reads, for
    each lane of its rows, whole blocks one after the other and holds one window of them.

    The order depends on the seed alone, not on the number of processes: a process reads no more
    than its share as long as it has whole lanes.

    Args:
        count: Number of records, at least 1.
        batch_size: Of the global batch; it has as many lanes as the largest common divisor with 64.
        block_size: Records of a block.
        buffer_size: Records of all windows together.
        seed: Of all orders.
    """

    def __init__(
        self, count: int, *, batch_size: int, block_size: int, buffer_size: int, seed: int
    ):
        self._count, self._batch_size, self._seed = count, batch_size, seed % 2**64
        self.num_lanes = math.gcd(batch_size, _MAX_LANES)
        self._block_size = block_size
        self._window_blocks = max(1, round(buffer_size / self.num_lanes / block_size))
        lanes = np.arange(self.num_lanes)
        group = batch_size // self.num_lanes
        rows = np.arange(batch_size)
        # Row -> its place in the stream of all rows, which takes the lanes in turns.
        self._order = rows % group * self.num_lanes + rows // group
        # Windows end at other times in each lane, so that reads are spread evenly.
        self._first_blocks = lanes * self._window_blocks // self.num_lanes

    def __call__(self, batch: int) -> np.ndarray:
        """The records of a batch, int64 [batch_size]."""
        return self.locate(batch, np.arange(self._batch_size)).indices

    def locate(self, batch: int, rows: np.ndarray) -> BlockRows:
        """Where the records of some rows of a batch lie."""
        epochs, offsets = np.divmod(batch * self._batch_size + self._order[rows], self._count)
        lanes, positions = offsets % self.num_lanes, offsets // self.num_lanes
        lengths = (self._count - lanes + self.num_lanes - 1) // self.num_lanes
        starts = lanes * (self._count // self.num_lanes) + np.minimum(
            lanes, self._count % self.num_lanes
        )
        window_size = self._window_blocks * self._block_size
        ahead = self._first_blocks[lanes] * self._block_size
        windows, positions = np.divmod(positions + ahead, window_size)
        first = np.where(windows == 0, ahead, 0)  # positions of the first window that are not
        sizes = np.minimum(window_size, lengths + ahead - windows * window_size) - first
        keys = make_key(self._seed, epochs, lanes)
        inner = permute(positions - first, sizes, make_key(keys, _WINDOW, windows))
        inner = inner.astype(np.int64) + first + windows * window_size - ahead
        slots, within = np.divmod(inner, self._block_size)
        whole = lengths // self._block_size
        numbers = slots.copy()
        is_whole = slots < whole  # the rest of a lane's stretch comes last
        numbers[is_whole] = permute(
            slots[is_whole], whole[is_whole], make_key(keys, _BLOCKS)[is_whole]
        ).astype(np.int64)
        rotation = permute(0 * epochs, self._count, make_key(self._seed, epochs, _ROTATION))
        block_starts = (
            starts + numbers * self._block_size + rotation.astype(np.int64)
        ) % self._count
        return BlockRows(
            indices=(block_starts + within) % self._count,
            lanes=rows * self.num_lanes // self._batch_size,
            windows=epochs * (2 + self._count // self.num_lanes // window_size) + windows,
            starts=block_starts,
            lengths=np.minimum(self._block_size, lengths - numbers * self._block_size),
            offsets=within,
        )


class StoredShuffleSampler:
    """The order of jaxtag 0.1: each epoch's is drawn as a whole and kept, 4 bytes a record.

    Runs that started with it go on with it. Two epochs are kept; there may be 2^31 - 1 records.

    Args:
        count: Number of records, at least 1.
        batch_size: Of the global batch.
        seed: Of all orders.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int):
        self._count, self._batch_size, self._seed = count, batch_size, seed % 2**64
        self._orders: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_orders": {}}

    def __call__(self, batch: int) -> np.ndarray:
        """The records of a batch, int32 [batch_size]."""
        positions = batch * self._batch_size + np.arange(self._batch_size)
        epochs, offsets = np.divmod(positions, self._count)
        first, last = int(epochs[0]), int(epochs[-1])
        if first == last:
            return self._order(first)[offsets]
        orders = np.concatenate([self._order(epoch) for epoch in range(first, last + 1)])
        return orders[positions - first * self._count]

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:  # several threads may draw the same order, which is the same array
            order = np.arange(self._count, dtype=np.int32)
            np.random.default_rng((self._seed, epoch)).shuffle(order)
            newest = sorted([*self._orders, epoch])[-2:]
            self._orders = {n: self._orders.get(n, order) for n in newest}
        return order


class ClassBalancedSampler:
    """P classes or tags a batch and K images of each: batch_size = P K.

    Batches come in rounds of floor(C / P), in which no class comes twice; each round takes the C
    classes in an order of its own and leaves out the last C mod P. With each round a class goes K
    further through its images, in an order that is another with each pass, and each pass leaves
    out the last that do not fill a K. A class with fewer than K repeats them. Classes may share
    records, as tags do; one is then drawn for whichever of its tags comes, or for several.

    Args:
        class_indices: The records of each class that has any.
        batch_size: P K.
        samples_per_class: K.
        seed: Of both orders.

    Raises:
        UsageError: There are fewer than P classes with images.
    """

    def __init__(
        self,
        class_indices: Sequence[np.ndarray],
        *,
        batch_size: int,
        samples_per_class: int,
        seed: int,
    ):
        self._class_indices = class_indices
        self._samples_per_class = samples_per_class
        self._classes_per_batch = batch_size // samples_per_class
        self._batches_per_round = len(class_indices) // self._classes_per_batch
        if not self._batches_per_round:
            least = -(-batch_size // len(class_indices))
            raise UsageError(
                f"config.task.samples_per_class = {samples_per_class} makes batches of "
                f"{self._classes_per_batch} classes, and only {len(class_indices)} have images: "
                f"take at least {least}, or a smaller config.batch_size"
            )
        self._seed = seed % 2**64

    def __call__(self, batch: int) -> np.ndarray:
        """The records of a batch, int64 [batch_size], class by class."""
        number, start = divmod(batch, self._batches_per_round)
        order = self._permutation(len(self._class_indices), number, _CLASS_ORDER)
        classes = order[start * self._classes_per_batch :][: self._classes_per_batch]
        return np.concatenate([self._samples(label, number) for label in classes])

    def _samples(self, label: int, number: int) -> np.ndarray:
        """The K records of a class in round `number`."""
        indices, count = self._class_indices[label], self._samples_per_class
        epoch, start = divmod(number, max(1, len(indices) // count))
        order = self._permutation(len(indices), epoch, label + 1)[start * count :][:count]
        return indices[np.resize(order, count)]

    def _permutation(self, count: int, epoch: int, stream: int) -> np.ndarray:
        return np.random.default_rng((self._seed, stream, epoch)).permutation(count)
