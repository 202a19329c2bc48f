"""Batches of P classes or tags, K pictures of each, from the seed and the batch's number alone."""

from collections.abc import Sequence

import numpy as np

from jaxtag.errors import UsageError

_CLASSES = -1  # what is shuffled: they, or the pictures of one


class BalancedOrder:
    """Which records a batch holds: `per_class` (K) of each of batch_size / K (P) classes.

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
                f"config.embed.pictures_per_class = {per_class} makes batches of "
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
