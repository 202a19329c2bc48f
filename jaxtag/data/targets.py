"""What a row of a batch holds beside its picture: captions as tokens, a class, marks of tags."""

import dataclasses
from collections.abc import Sized
from typing import Any, ClassVar, Protocol

import numpy as np

from jaxtag.data.tokenizer import PAD, Tokenizer


class Target(Protocol):
    """Makes one array of the batch from a record; small and picklable.

    `empty` is what a row without a record holds; its shape and dtype are those of every row.
    `random` says whether it draws anything from the generator, which else may be None.
    """

    random: bool

    @property
    def empty(self) -> np.ndarray: ...

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class CaptionTokens:
    """int32 [per_picture, length]: captions of the record, encoded.

    Args:
        tokenizer: encodes them.
        length: tokens a caption, `<bos>` and `<eos>` included.
        per_picture: how many captions (K). A record with fewer repeats some when `random`, and
            leaves rows of `<pad>` otherwise; one without any is all `<pad>`.
        random: draw them anew for each example, each caption at most once while there are
            enough; otherwise the first ones in order.
    """

    tokenizer: Tokenizer
    length: int
    per_picture: int = 1
    random: bool = True

    @property
    def empty(self) -> np.ndarray:
        return np.full((self.per_picture, self.length), PAD, np.int32)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        captions, out = record["captions"], self.empty
        if not captions:
            return out
        if self.random:
            rounds = -(-self.per_picture // len(captions))
            order = np.concatenate([rng.permutation(len(captions)) for _ in range(rounds)])
            captions = [captions[i] for i in order]
        chosen = captions[: self.per_picture]
        out[: len(chosen)] = self.tokenizer.encode(chosen, self.length)
        return out


@dataclasses.dataclass(frozen=True)
class ClassLabel:
    """int32 []: the class of the record."""

    random: ClassVar[bool] = False

    @property
    def empty(self) -> np.ndarray:
        return np.zeros((), np.int32)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        del rng
        return np.int32(record["label"])


@dataclasses.dataclass(frozen=True)
class MultiHot:
    """uint8 [T]: `mark` (0 or 1) for each tag that a field of the record lists, else the other.

    Args:
      field: of the record, a list of tag numbers.
      tags: the names of all tags, or whatever has their number as its length.
    """

    random: ClassVar[bool] = False
    field: str
    tags: Sized
    mark: int = 1

    @property
    def empty(self) -> np.ndarray:
        return np.zeros(len(self.tags), np.uint8)

    def __call__(self, record: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        del rng
        marks = np.full(len(self.tags), 1 - self.mark, np.uint8)
        marks[record[self.field]] = self.mark
        return marks
