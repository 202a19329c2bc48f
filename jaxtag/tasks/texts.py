"""What tasks with texts share: the tokenizer of a run, and the size of its table of embeddings."""

import itertools
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

from absl import logging

from jaxtag.config.schema import Config
from jaxtag.data import sources
from jaxtag.data.sources import Source
from jaxtag.data.targets import TAG_PROMPT
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.metrics.captioning import unspaced
from jaxtag.tasks.base import SettingsT, Task

_MULTIPLE = 64


class TextTask(Task[SettingsT]):
    """A task whose vocabulary is a tokenizer, trained on the training captions.

    Its settings have `vocab_size`, `max_length` and `lowercase`.
    """

    vocabulary_file = "tokenizer.json"

    @classmethod
    def build_vocabulary(cls, config: Config, source: Source) -> Tokenizer:
        """A tokenizer; warnings say which captions it does not suit, or cuts."""
        captions = captions_of(source)
        if TAG_PROMPT in source.features:
            captions += [record[TAG_PROMPT] for record in source.iter_fields([TAG_PROMPT])]
        if warning := unspaced.describe(captions):
            logging.warning("%s", warning)
        settings: Any = cls.section(config)
        return train_tokenizer(
            captions, settings.vocab_size, settings.max_length, settings.lowercase
        )

    @classmethod
    def load_vocabulary(cls, path: Path) -> Tokenizer:
        return Tokenizer.load(path)

    @classmethod
    def published_vocabulary(cls, config: Config) -> str:
        return "tokens"


def train_tokenizer(
    captions: Sequence[str], vocab_size: int, max_length: int, lowercase: bool
) -> Tokenizer:
    """A tokenizer trained on captions; a warning says how many are longer than `max_length`."""
    tokenizer = Tokenizer.train(captions, vocab_size, lowercase)
    warn_of_cut(tokenizer, captions, max_length)
    return tokenizer


def captions_of(source: Source) -> list[str]:
    """All captions of a source, those of one image after those of another."""
    return list(itertools.chain.from_iterable(sources.iter_captions(source)))


def warn_of_cut(tokenizer: Tokenizer, captions: Sequence[str], max_length: int) -> None:
    """Says in the log how many captions are longer than `max_length`."""
    tokenizer.encode(captions, max_length)
    if tokenizer.truncated:
        logging.warning(
            "%d of %d captions are longer than config.task.max_length = %d tokens and are cut",
            tokenizer.truncated,
            len(captions),
            max_length,
        )


def padded_size(vocabulary: Sized) -> int:
    """Rows of the table of embeddings, which so splits over devices and fills tiles."""
    return -(-len(vocabulary) // _MULTIPLE) * _MULTIPLE
