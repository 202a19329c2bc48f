"""Which records a batch holds, from the seed and the batch's number alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtag.errors import UsageError

_CLASSES = -1  # what is shuffled: they, or the pictures of one


class ShuffleSampler:
    """Every record once a pass, each pass in an order of its own, drawn as a whole.

    Row j of batch t is record `t * batch_size + j` of all passes, one after the other: a batch may
    hold the end of one and the start of the next. The orders of two passes are kept, 4 bytes a
    record: looking one up costs a hundredth of computing a place in a shuffle that nobody keeps.

    Args:
      count: of the records, at least 1.
      seed: of all orders.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int):
        self._count, self._batch_size, self._seed = count, batch_size, seed % 2**64
        self._passes: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": {}}

    def __call__(self, batch: int) -> np.ndarray:
        """The records of a batch, int32 [batch_size]."""
        positions = batch * self._batch_size + np.arange(self._batch_size)
        passes, places = np.divmod(positions, self._count)
        first, last = int(passes[0]), int(passes[-1])
        if first == last:
            return self._pass(first)[places]
        whole = np.concatenate([self._pass(number) for number in range(first, last + 1)])
        return whole[positions - first * self._count]

    def _pass(self, number: int) -> np.ndarray:
        order = self._passes.get(number)
        if order is None:  # several threads may draw the same, which is the same
            order = np.arange(self._count, dtype=np.int32)
            np.random.default_rng((self._seed, number)).shuffle(order)
            newest = sorted([*self._passes, number])[-2:]
            self._passes = {n: self._passes.get(n, order) for n in newest}
        return order


class ClassBalancedSampler:
    """P classes or tags a batch and `per_class` (K) pictures of each: batch_size = P K.

    Batches come in rounds of floor(C / P), in which no class comes twice; each round takes the C
    classes in an order of its own and leaves out the last C mod P. With each round a class goes K
    further through its pictures, in an order that is another with each pass, and each pass leaves
    out the last that do not fill a K. A class with fewer than K repeats them. Classes may share
    records, as tags do; one is then drawn for whichever of its tags comes, or for several.

    Args:
      members: the records of each class that has any.
      batch_size: P K.
      per_class: K.
      seed: of both orders.

    Raises:
      UsageError: there are fewer than P classes with pictures.
    """

    def __init__(
        self, members: Sequence[np.ndarray], *, batch_size: int, per_class: int, seed: int
    ):
        self._members = members
        self._per_class, self._in_batch = per_class, batch_size // per_class
        self._rounds = len(self._members) // self._in_batch
        if not self._rounds:
            least = -(-batch_size // len(self._members))
            raise UsageError(
                f"config.task.samples_per_class = {per_class} makes batches of "
                f"{self._in_batch} classes, and only {len(self._members)} have pictures: take at "
                f"least {least}, or a smaller config.batch_size"
            )
        self._seed = seed % 2**64

    def __call__(self, batch: int) -> np.ndarray:
        """The records of a batch, int64 [batch_size], class by class."""
        number, place = divmod(batch, self._rounds)
        classes = self._shuffled(len(self._members), number, _CLASSES)
        chosen = classes[place * self._in_batch :][: self._in_batch]
        return np.concatenate([self._pictures(one, number) for one in chosen])

    def _pictures(self, one: int, number: int) -> np.ndarray:
        """The K of a class for a round."""
        own, count = self._members[one], self._per_class
        number, place = divmod(number, max(1, len(own) // count))
        order = self._shuffled(len(own), number, one)[place * count :][:count]
        return own[np.resize(order, count)]

    def _shuffled(self, count: int, number: int, of: int) -> np.ndarray:
        """0 … count - 1 in the order of pass `number` over the classes or over those of one."""
        return np.random.default_rng((self._seed, of + 1, number)).permutation(count)
