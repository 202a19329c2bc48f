"""What tasks with texts share: the tokenizer of a run, and the size of its table of embeddings."""

from collections.abc import Sequence, Sized

from absl import logging

from jaxtag.data.tokenizer import Tokenizer

_MULTIPLE = 64


def train_tokenizer(
    captions: Sequence[str], vocab_size: int, max_length: int, lowercase: bool
) -> Tokenizer:
    """A tokenizer trained on captions; a warning says how many are longer than `max_length`."""
    tokenizer = Tokenizer.train(captions, vocab_size, lowercase)
    tokenizer.encode(captions, max_length)
    if tokenizer.truncated:
        logging.warning(
            "%d of %d captions are longer than config.task.max_length = %d tokens and are cut",
            tokenizer.truncated,
            len(captions),
            max_length,
        )
    return tokenizer


def padded_size(vocabulary: Sized) -> int:
    """Rows of the table of embeddings, which so splits over devices and fills tiles."""
    return -(-len(vocabulary) // _MULTIPLE) * _MULTIPLE
