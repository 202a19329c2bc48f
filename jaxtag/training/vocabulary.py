"""What must be there before training: the prepared data set, and a tokenizer of its captions."""

import itertools
import sys
from pathlib import Path

import jax
from absl import logging

from jaxtag.config import Config
from jaxtag.data import builders, sources
from jaxtag.data.text import Tokenizer
from jaxtag.errors import UserError

TOKENIZER = "tokenizer.json"
_WAIT_SECONDS = 3600.0  # for another process that prepares the same data set


def ensure_data(config: Config) -> None:
    """Prepares the data set on first use, where it can be: embedded, or with data.source_dir.

    Raises:
      UserError: it is absent and there is nothing to prepare it from (with the commands to get
        it), or it could not be prepared.
    """
    data = config.data
    try:
        sources.open_split(data.dataset, data.train_split, data.data_dir)
        return
    except UserError:
        embedded = not builders.builder_class(data.dataset).NEEDS_SOURCE
        if not embedded and data.source_dir is None:
            raise
    folder = sources.data_dir(data.data_dir)
    print(f"preparing the data set {data.dataset} in {folder}", file=sys.stderr)
    builders.prepare(data.dataset, data.source_dir, folder, wait_seconds=_WAIT_SECONDS)


def has_checkpoints(workdir: Path) -> bool:
    """Whether anything was saved there that depends on its configuration and tokenizer."""
    return (workdir / "checkpoints").exists()


def ensure_tokenizer(config: Config, workdir: Path) -> Tokenizer:
    """The tokenizer of the checkpoints in `workdir`; before there are any, a new one.

    It is trained on the training captions. What a run without checkpoints left may have been made
    from other captions, and is not used.
    """
    path = workdir / TOKENIZER
    if has_checkpoints(workdir):
        if not path.exists():
            raise UserError(
                f"{path} is missing, though there are checkpoints that were trained with it: "
                "restore it, or take another --workdir"
            )
        return Tokenizer.load(path)
    data = config.data
    source = sources.open_split(data.dataset, data.train_split, data.data_dir)
    captions = list(itertools.chain.from_iterable(sources.captions_of(source)))
    tokenizer = Tokenizer.train(captions, config.text.vocab_size, config.text.lowercase)
    tokenizer.encode(captions, config.text.length)
    if tokenizer.truncated:
        logging.warning(
            "%d of %d captions are longer than config.text.length = %d tokens and are cut",
            tokenizer.truncated,
            len(captions),
            config.text.length,
        )
    if jax.process_index() == 0:
        tokenizer.save(path)
    return tokenizer
