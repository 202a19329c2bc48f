"""What must be there before training: the prepared data set, and what its texts or labels mean."""

import itertools
import sys
from pathlib import Path

from absl import logging

from jaxtag import datasets
from jaxtag.config.schema import Config, label_feature
from jaxtag.data import sources
from jaxtag.data.labels import LabelNames
from jaxtag.data.tokenizer import Tokenizer
from jaxtag.distributed import coordination
from jaxtag.errors import UserError

# A task's vocabulary, and the file of a work directory that holds it.
Vocabulary = Tokenizer | LabelNames
_FILES: dict[str, tuple[str, type[Vocabulary]]] = {
    "caption": ("tokenizer.json", Tokenizer),
    "classify": ("classes.json", LabelNames),
    "embed": ("classes.json", LabelNames),
    "tag": ("tags.json", LabelNames),
}
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
        embedded = not datasets.builder_class(data.dataset).NEEDS_SOURCE
        if not embedded and data.source_dir is None:
            raise
    folder = sources.data_dir(data.data_dir)
    print(f"preparing the data set {data.dataset} in {folder}", file=sys.stderr)
    datasets.prepare(data.dataset, data.source_dir, folder, wait_seconds=_WAIT_SECONDS)


def has_checkpoints(workdir: Path) -> bool:
    """Whether anything was saved there that depends on its configuration and tokenizer."""
    return (workdir / "checkpoints").exists()


def path_of(config: Config, workdir: Path) -> Path:
    """The file of a work directory that holds its vocabulary."""
    return workdir / _FILES[config.task][0]


def load(config: Config, workdir: Path) -> Vocabulary:
    """The vocabulary that a run was trained with. Raises UserError where there is none."""
    path = path_of(config, workdir)
    if not path.exists():
        raise UserError(f"{workdir} has no {path.name}: nothing was trained there yet")
    return _FILES[config.task][1].load(path)


def ensure(config: Config, workdir: Path) -> Vocabulary:
    """The vocabulary of the checkpoints in `workdir`; before there are any, a new one.

    A tokenizer is trained on the training captions, by process 0. What a run without checkpoints
    left may have been made from other data, and is not used.
    """
    coordination.run_on_process_zero(lambda: _write(config, workdir))
    return load(config, workdir)


def _write(config: Config, workdir: Path) -> None:
    path = path_of(config, workdir)
    if has_checkpoints(workdir):
        if not path.exists():
            raise UserError(
                f"{path} is missing, though there are checkpoints that were trained with it: "
                "restore it, or take another --workdir"
            )
        return
    data = config.data
    source = sources.open_split(data.dataset, data.train_split, data.data_dir)
    if config.task == "caption":
        made = _tokenizer(config, source)
    else:
        made = LabelNames.of(source, label_feature(config))
    made.save(path)


def _tokenizer(config: Config, source: sources.Source) -> Tokenizer:
    captions = list(itertools.chain.from_iterable(sources.iter_captions(source)))
    tokenizer = Tokenizer.train(captions, config.task.vocab_size, config.task.lowercase)
    tokenizer.encode(captions, config.task.max_length)
    if tokenizer.truncated:
        logging.warning(
            "%d of %d captions are longer than config.task.max_length = %d tokens and are cut",
            tokenizer.truncated,
            len(captions),
            config.task.max_length,
        )
    return tokenizer
