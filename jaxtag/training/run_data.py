"""The data of a run: prepared on first use, opened once, with the vocabulary that goes with it."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxtag import datasets, registry
from jaxtag.config.schema import Config, DataConfig
from jaxtag.data.sources import Source, as_data_source
from jaxtag.datasets.prepared import data_dir, open_split
from jaxtag.distributed import coordination
from jaxtag.errors import UsageError, UserError, did_you_mean
from jaxtag.tasks.base import Data, Task

_WAIT_SECONDS = 3600.0  # for another process that prepares the same data set


def task_class(config: Config) -> type[Task]:
    """The class of the configuration's task."""
    resolved: type[Task] = registry.resolve("task", config.task.TASK, "config.task")
    return resolved


def open_data(config: Config, workdir: Path, data: Mapping[str, Any] | None = None) -> Data:
    """Opens the training and evaluation sources of a run and its vocabulary, once each.

    Args:
        config: `config.data` names the data set and its splits.
        workdir: holds the vocabulary of a run that has checkpoints; a new one is written there.
        data: sources by the names of `config.data.train_split` and `evaluation_split`, instead of
            a prepared data set (see `jaxtag.data.sources.as_data_source`).

    Raises:
        UserError: the data set is absent or damaged, or its records lack what the task needs.
    """
    if data is None:
        ensure_prepared(config.data)
    train, evaluation = (
        open_source(config.data, split, data)
        for split in (config.data.train_split, config.data.evaluation_split)
    )
    return Data(train, evaluation, load_or_build_vocabulary(config, workdir, train))


def open_source(settings: DataConfig, split: str, data: Mapping[str, Any] | None = None) -> Source:
    """One split of `data`, or of the data set that `settings.dataset` names.

    `package.module:Name` is a builder, or a function from the name of a split to a source.
    """
    if data is not None:
        if split not in data:
            raise UsageError(f"data has no split {split!r}{did_you_mean(split, data)}")
        return as_data_source(data[split])
    factory = _source_factory(settings)
    if factory is not None:
        return as_data_source(factory(split))
    return open_split(settings.dataset, split, settings.data_dir)


def ensure_prepared(settings: DataConfig) -> None:
    """Prepares the data set on first use, where it is embedded or `data.source_dir` is set.

    Raises:
        UserError: it is absent and there is nothing to prepare it from (with the commands to get
            it), or it could not be prepared.
    """
    if _source_factory(settings) is not None:
        return
    try:
        open_split(settings.dataset, settings.train_split, settings.data_dir)
        return
    except UserError:
        embedded = not datasets.builder_class(settings.dataset).NEEDS_SOURCE
        if not embedded and settings.source_dir is None:
            raise
    folder = data_dir(settings.data_dir)
    print(f"preparing the data set {settings.dataset} in {folder}", file=sys.stderr)
    datasets.prepare(settings.dataset, settings.source_dir, folder, wait_seconds=_WAIT_SECONDS)


def has_checkpoints(workdir: Path) -> bool:
    """Whether anything was saved there that depends on its configuration and vocabulary."""
    return (workdir / "checkpoints").exists()


def vocabulary_path(config: Config, workdir: Path) -> Path | None:
    """The file of a work directory that holds its vocabulary, where the task has one."""
    name = task_class(config).vocabulary_file
    return None if name is None else workdir / name


def load_vocabulary(config: Config, workdir: Path) -> Any:
    """The vocabulary that a run was trained with. Raises UserError where there is none."""
    path = vocabulary_path(config, workdir)
    if path is None:
        return None
    if not path.exists():
        raise UserError(f"{workdir} has no {path.name}: nothing was trained there yet")
    return task_class(config).load_vocabulary(path)


def load_or_build_vocabulary(config: Config, workdir: Path, train: Source) -> Any:
    """The vocabulary of the checkpoints in `workdir`; before there are any, a new one.

    Process 0 builds it. What a run without checkpoints left may have been built from other data,
    and is not used.
    """
    coordination.run_on_process_zero(lambda: _build(config, workdir, train))
    return load_vocabulary(config, workdir)


def _build(config: Config, workdir: Path, train: Source) -> None:
    path = vocabulary_path(config, workdir)
    if path is None:
        return
    if not has_checkpoints(workdir):
        task_class(config).build_vocabulary(config, train).save(path)
    elif not path.exists():
        raise UserError(
            f"{path} is missing, though there are checkpoints that were trained with it: "
            "restore it, or take another --workdir"
        )


def _source_factory(settings: DataConfig) -> Callable[[str], Any] | None:
    """The function from a split to its source that `settings.dataset` names, if it names one.

    `package.module:Name` may also be a builder, whose data sets are prepared as others are.
    """
    _, colon, attribute = settings.dataset.partition(":")
    if not colon or attribute[:1].isdecimal():  # name:1.0.0 is a version
        return None
    factory: Any = registry.import_object(settings.dataset, "config.data.dataset")
    if isinstance(factory, type) and issubclass(factory, datasets.ImageDatasetBuilder):
        return None
    return factory
