"""Samplers: which records a batch holds, from the seed and the batch's number alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtag.errors import UsageError

_CLASS_ORDER = 0  # random stream of the order of classes; class c has the stream c + 1


class ShuffleSampler:
    """Every record once an epoch, each epoch in an order of its own, drawn as a whole.

    Row j of batch t is record `t * batch_size + j` of all epochs, one after the other: a batch may
    hold the end of one and the start of the next. The orders of two epochs are cached, 4 bytes a
    record: a lookup costs a hundredth of computing one position of a shuffle that is not stored.

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
