"""The data of a run: prepared on first use, opened once, with the vocabulary that goes with it.

A run knows its labels by name, in `classes.json` or `tags.json`, and its data by a fingerprint, in
`data.json`; both are in each checkpoint as well. Whatever data it meets later are matched by name.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from jaxtag import datasets, registry
from jaxtag.config.schema import Config, DataConfig
from jaxtag.data.label_matching import match_labels
from jaxtag.data.labels import LabelNames, listed
from jaxtag.data.mixture import MixtureSource
from jaxtag.data.shard_files import names_shard_files, open_shard_files
from jaxtag.data.sources import Source, as_data_source
from jaxtag.datasets.prepared import data_dir, open_split
from jaxtag.distributed import coordination
from jaxtag.errors import UsageError, UserError, did_you_mean
from jaxtag.storage import json_files
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.paths import make_path
from jaxtag.tasks.base import Data, Task
from jaxtag.training import checkpoint_manifest
from jaxtag.training.checkpoint import Checkpoints

DATA_FILE = "data.json"
_WAIT_SECONDS = 3600.0  # for another process that prepares the same data set


def task_class(config: Config) -> type[Task]:
    """The class of the configuration's task."""
    resolved: type[Task] = registry.resolve("task", config.task.TASK, "config.task")
    return resolved


def open_data(
    config: Config,
    workdir: Path,
    data: Mapping[str, Any] | None = None,
    allow_changes: bool = False,
) -> Data:
    """Opens the training and evaluation sources of a run and its vocabulary, once each.

    Their labels are numbered as the vocabulary numbers them, whatever their own order is.

    Args:
        config: `config.data` names the data set and its splits.
        workdir: holds the vocabulary of a run that has checkpoints; a new one is written there.
        data: sources by the names of `config.data.train_split` and `evaluation_split`, instead of
            a prepared data set (see `jaxtag.data.sources.as_data_source`).
        allow_changes: go on although the data are not those that the run was trained on.

    Raises:
        UserError: the data set is absent or damaged, its records lack what the task needs, it has
            labels that the run does not know, or, unless `allow_changes`, it has changed.
    """
    if data is None:
        train = _open_train(config.data)
    elif config.data.datasets:
        raise UsageError("config.data.datasets names data sets, and data gives others: choose one")
    else:
        train = open_source(config.data, config.data.train_split, data)
    evaluation = open_source(config.data, config.data.evaluation_split, data)
    task = task_class(config)
    train, evaluation = (task.complete_source(config, source) for source in (train, evaluation))
    vocabulary = load_or_build_vocabulary(config, workdir, train)
    differences: list[str] = []
    if isinstance(vocabulary, LabelNames):
        field = task.label_field(config)
        differences = _label_differences(train.declared_names(field), vocabulary)
        train = match_labels(train, field, vocabulary)
        evaluation = match_labels(evaluation, field, vocabulary, numbers_agree=True)
    fingerprint = {
        config.data.train_split: train.fingerprint(),
        config.data.evaluation_split: evaluation.fingerprint(),
    }
    coordination.run_on_process_zero(
        lambda: _compare_data(workdir, fingerprint, differences, allow_changes)
    )
    return Data(train, evaluation, vocabulary, fingerprint)


def _open_train(settings: DataConfig) -> Source:
    """The training split of the data set, or of all that are mixed."""
    if not settings.datasets:
        return open_or_prepare(settings)
    names, weights = zip(*settings.datasets, strict=True)
    each = [dataclasses.replace(settings, dataset=name, datasets=()) for name in names]
    return MixtureSource([open_or_prepare(one) for one in each], weights)


def open_source(settings: DataConfig, split: str, data: Mapping[str, Any] | None = None) -> Source:
    """One split of `data`, or of the data set that `settings.dataset` names.

    `package.module:Name` is a builder, or a function from the name of a split to a source;
    `tar:PATTERN` and `parquet:PATTERN` name files (see `jaxtag.data.shard_files`).
    """
    if data is not None:
        if split not in data:
            raise UsageError(f"data has no split {split!r}{did_you_mean(split, data)}")
        return as_data_source(data[split])
    shard_files = open_shard_files(settings.dataset, split)
    if shard_files is not None:
        return shard_files
    factory = _source_factory(settings)
    if factory is not None:
        return as_data_source(factory(split))
    return open_split(settings.dataset, split, settings.data_dir)


def match_to_run(task: Task, source: Source) -> tuple[Task, Source]:
    """A task and a source to evaluate it on, with the labels of the source matched by name.

    A task that compares images with each other gets the labels that it did not know appended.

    Raises:
        UserError: the source has labels that the run does not know.
    """
    labels = task.label_names
    source = task.complete_source(task.config, source)
    if labels is None:
        return task, source
    field = task.label_field(task.config)
    names = source.declared_names(field)
    if task.unseen_labels and names is not None:
        labels = LabelNames((*labels.names, *LabelNames(tuple(names)).missing_from(labels.names)))
        if len(labels) > len(task.vocabulary):
            task = type(task)(task.config, labels, task.model)
    if names is not None and not task.unseen_labels and (lacking := labels.missing_from(names)):
        logging.warning("%s has no %s: %s", source.name, _kind(field), listed(lacking))
    return task, match_labels(source, field, labels)


def checkpoint_notes(config: Config, workdir: Path, data: Data) -> dict[str, Any]:
    """What a checkpoint holds of the data: their fingerprint, and the labels or the vocabulary."""
    notes: dict[str, Any] = {"data": dict(data.fingerprint)}
    path = vocabulary_path(config, workdir)
    if isinstance(data.vocabulary, LabelNames):
        notes["labels"] = list(data.vocabulary.names)
    elif path is not None:
        notes["vocabulary"] = _digest(path)
    return notes


def check_saved_labels(path: Path | None, vocabulary: Any, notes: Mapping[str, Any]) -> None:
    """Raises UserError where a checkpoint was trained with other labels than the file `path` holds.

    Args:
        path: of the vocabulary.
        vocabulary: what it holds.
        notes: of the checkpoint (`checkpoint_notes`); those of older versions say less.
    """
    saved_digest = notes.get("vocabulary")
    if path is not None and saved_digest is not None and saved_digest != _digest(path):
        raise UserError(
            f"{path} is not the vocabulary that the checkpoint was trained with: restore the file"
        )
    saved = notes.get("labels")
    if saved is None or not isinstance(vocabulary, LabelNames) or vocabulary.names == tuple(saved):
        return
    raise UserError(
        f"{path} holds other labels than the checkpoint was trained with "
        f"({'; '.join(_label_differences(vocabulary.names, LabelNames(tuple(saved))))}): restore "
        "the file"
    )


def open_or_prepare(settings: DataConfig) -> Source:
    """The training split; the data set is prepared where it is embedded or has a `source_dir`.

    Raises:
        UserError: it is absent and there is nothing to prepare it from (with the commands to get
            it), or it could not be prepared.
    """
    try:
        return open_source(settings, settings.train_split)
    except UserError:
        if names_shard_files(settings.dataset) or _source_factory(settings) is not None:
            raise
        embedded = not datasets.builder_class(settings.dataset).NEEDS_SOURCE
        if not embedded and settings.source_dir is None:
            raise
    folder = data_dir(settings.data_dir)
    print(f"preparing the data set {settings.dataset} in {folder}", file=sys.stderr)
    datasets.prepare(settings.dataset, settings.source_dir, folder, wait_seconds=_WAIT_SECONDS)
    return open_source(settings, settings.train_split)


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
    if not has_checkpoints(workdir) and config.initial_checkpoint is not None:
        load_vocabulary(config, make_path(config.initial_checkpoint)).save(path)
    elif not has_checkpoints(workdir):
        task_class(config).build_vocabulary(config, train).save(path)
    elif not path.exists():
        raise UserError(
            f"{path} is missing, though there are checkpoints that were trained with it: "
            "restore it, or take another --workdir"
        )


def _kind(field: str) -> str:
    return "tags" if field == "tags" else "classes"


def _label_differences(names: Iterable[str] | None, labels: LabelNames) -> list[str]:
    """How the names of a source differ from those of the run, as phrases."""
    if names is None or tuple(names) == labels.names:
        return []
    others = LabelNames(tuple(names))
    missing, new = labels.missing_from(others.names), others.missing_from(labels.names)
    phrases = [
        f"{what} {listed(those)}" for what, those in (("no", missing), ("new", new)) if those
    ]
    return phrases or ["the same labels in another order"]


def _compare_data(
    workdir: Path, fingerprint: dict[str, Any], differences: list[str], allow_changes: bool
) -> None:
    """Compares the data with those of the checkpoints, and writes down what a run is trained on."""
    path = workdir / DATA_FILE
    if has_checkpoints(workdir):
        recorded = _recorded_fingerprint(workdir)
        if recorded is not None:
            differences = differences + _data_differences(recorded, fingerprint)
        if differences and recorded is not None and not allow_changes:
            raise UserError(
                f"{workdir} was trained on other data ({'; '.join(differences)}): take another "
                "--workdir, or say --allow_changes to go on all the same"
            )
        if differences:
            logging.warning(
                "%s was trained on other data: %s; labels are matched by name",
                workdir,
                "; ".join(differences),
            )
        if recorded == fingerprint and path.exists():
            return
    write_text(path, json.dumps(fingerprint, indent=2, ensure_ascii=False) + "\n")


def _recorded_fingerprint(workdir: Path) -> dict[str, Any] | None:
    """That of `data.json`, else of the newest checkpoint; None for a run of version 0.1."""
    path = workdir / DATA_FILE
    if path.exists():
        try:
            recorded = json_files.read(path)
        except UserError as error:
            raise UserError(f"{error}: delete it, a checkpoint has it too") from error
        return recorded if isinstance(recorded, dict) else None
    directory = workdir / "checkpoints"
    for step in reversed(Checkpoints(directory, keep_last=1).steps()):
        try:
            return checkpoint_manifest.read(directory / str(step)).notes.get("data")
        except checkpoint_manifest.DamagedCheckpointError:
            continue
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _data_differences(recorded: dict[str, Any], fingerprint: dict[str, Any]) -> list[str]:
    """How two fingerprints differ, as phrases."""
    phrases = []
    for split, now in fingerprint.items():
        before = recorded.get(split)
        # An older version recorded less.
        if not isinstance(before, dict) or all(before.get(n, v) == v for n, v in now.items()):
            continue
        if before.get("dataset") != now.get("dataset"):
            phrases.append(
                f"{split!r} was of {before.get('dataset') or 'an own data source'}, now of "
                f"{now.get('dataset') or 'an own data source'}"
            )
        if before.get("examples") != now.get("examples"):
            phrases.append(
                f"{split!r} had {before.get('examples')} pictures, now {now['examples']}"
            )
        elif before.get("dataset") == now.get("dataset"):
            phrases.append(f"{split!r} holds other pictures or labels, as many as before")
    return phrases


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
