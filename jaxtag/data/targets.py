"""What a row of a batch holds beside its image: caption tokens, a class, a multi-hot vector."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxtag.data.labels import Label, LabelNames
from jaxtag.data.sources import Record
from jaxtag.data.tokenizer import PAD, Tokenizer
from jaxtag.errors import UserError

TAG_PROMPT = "tag_prompt"  # of a record: "dog, ball:" (see `inference.tag_prompt`)


class Target(Protocol):
    """Makes one array of the batch from a record; small and picklable.

    Attributes:
        random: Whether it draws from the generator, which otherwise may be None.
        empty: The row that no record fills; its shape and dtype are those of every row.
    """

    @property
    def random(self) -> bool: ...

    @property
    def empty(self) -> np.ndarray: ...

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray: ...


@dataclass(frozen=True)
class TagPrompt:
    """The tags that captions of the record begin with as token ids, int32 [length].

    Attributes:
        tokenizer: Encodes them; what does not fit is cut.
        length: Of the row, filled with `PAD`.
    """

    tokenizer: Tokenizer
    length: int
    random: bool = False

    @property
    def empty(self) -> np.ndarray:
        """A row of padding."""
        return np.full(self.length, PAD, np.int32)

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> np.ndarray:
        """Encodes the tags of the record."""
        del rng
        row = self.empty
        tokens = self.tokenizer.encode_prompts([_field(record, TAG_PROMPT)])[0, : self.length]
        row[: len(tokens)] = tokens
        return row


@dataclass(frozen=True)
class CaptionTokens:
    """Captions of the record as token ids, int32 [captions_per_image, max_length].

    Attributes:
        tokenizer: Encodes them.
        max_length: Tokens of a caption, `<bos>` and `<eos>` included.
        captions_per_image: How many captions (K). A record with fewer repeats some when `random`,
            and leaves rows of `<pad>` otherwise; one without any is all `<pad>`.
        random: Draw them anew for each example, each caption at most once while there are
            enough; otherwise the first ones in order.
        tag_prompt: What every caption begins with, if anything does.
    """

    tokenizer: Tokenizer
    max_length: int
    captions_per_image: int = 1
    random: bool = True
    tag_prompt: TagPrompt | None = None

    @property
    def empty(self) -> np.ndarray:
        """Rows of padding."""
        return np.full((self.captions_per_image, self.max_length), PAD, np.int32)

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """Encodes K captions of the record, drawn from `rng` where `random`."""
        captions, tokens = _field(record, "captions"), self.empty
        if not captions:
            return tokens
        if self.random:
            assert rng is not None
            rounds = -(-self.captions_per_image // len(captions))
            order = np.concatenate([rng.permutation(len(captions)) for _ in range(rounds)])
            captions = [captions[i] for i in order]
        captions = captions[: self.captions_per_image]
        tokens[: len(captions)] = self._encode(captions, record)
        return tokens

    def _encode(self, captions: Sequence[str], record: Record) -> np.ndarray:
        if self.tag_prompt is None:
            return self.tokenizer.encode(captions, self.max_length)
        prompt = self.tag_prompt(record)
        prompt = np.tile(prompt[prompt != PAD], (len(captions), 1))
        tokens = self.tokenizer.encode(captions, self.max_length - prompt.shape[1])
        return np.concatenate([tokens[:, :1], prompt, tokens[:, 1:]], axis=1)


@dataclass(frozen=True)
class ClassLabel:
    """The class of the record, int32 [].

    Attributes:
        labels: Numbers the names of classes; needed where records hold names.
        field: Of the record: the class, by number or by name.
    """

    labels: LabelNames | None = None
    field: str = "label"

    @property
    def random(self) -> bool:
        """False: nothing is drawn."""
        return False

    @property
    def empty(self) -> np.ndarray:
        """Class 0, to be masked."""
        return np.zeros((), np.int32)

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """The number of the record's class."""
        del rng
        label = _field(record, self.field)
        number = label if self.labels is None else self.labels.index(label)
        return np.asarray(number, np.int32)


@dataclass(frozen=True)
class MultiHot:
    """Which labels a field of the record lists, uint8 [T]: 1 for each of them, 0 for the others.

    Attributes:
        field: Of the record: a list of labels, by number or by name.
        labels: The names of all labels; a plain sequence has no names, only a length.
        inverted: 0 for the labels that are listed and 1 for the others; a record without the
            field then lists none.
    """

    field: str
    labels: LabelNames | Sized
    inverted: bool = False

    @property
    def random(self) -> bool:
        """False: nothing is drawn."""
        return False

    @property
    def empty(self) -> np.ndarray:
        """Zeros."""
        return np.zeros(len(self.labels), np.uint8)

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """The row of the record."""
        del rng
        listed: Sequence[Label] = (
            record.get(self.field, ()) if self.inverted else _field(record, self.field)
        )
        row = np.full(len(self.labels), int(self.inverted), np.uint8)
        if isinstance(self.labels, LabelNames):
            listed = self.labels.indices(listed)
        row[np.asarray(listed, np.intp)] = int(not self.inverted)
        return row


def _field(record: Record, field: str) -> Any:
    if field not in record:
        raise UserError(f"a record has no {field!r} (it holds: {', '.join(sorted(record))})")
    return record[field]
