"""The configuration to train with in a work directory: resolved, compared, written."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxtag import models
from jaxtag.config import dotted, serialization
from jaxtag.config.schema import Config
from jaxtag.distributed import coordination
from jaxtag.errors import UserError, write_error
from jaxtag.storage import mounts
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.lock import FolderLock
from jaxtag.storage.paths import is_store
from jaxtag.storage.store_lock import StoreLock
from jaxtag.tasks import common
from jaxtag.training import checkpoint_folder, run_data
from jaxtag.weights import reference
from jaxtag.weights.loader import described_fields


def resolve_run_config(config: Config, workdir: Path, allow_changes: bool = False) -> Config:
    """The configuration to train with in `workdir`; process 0 writes it there.

    Raises:
        UserError: `workdir` holds a run that trained something else, unless `allow_changes`; it
            cannot be written, or is not shared by all processes.
    """

    def resolve() -> str:
        return serialization.to_json(_resolve(config, workdir, allow_changes))

    resolved = serialization.from_json(coordination.run_on_process_zero(resolve))
    if not (workdir / "config.json").exists():
        raise UserError(
            f"process {jax.process_index()} does not see what process 0 wrote into {workdir}: "
            "--workdir must be a folder that all machines share"
        )
    return resolved


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """A context in which no other run writes to `workdir`; process 0 holds its lock.

    Raises:
        UserError: another run holds it (the message names its host and process), or it cannot be
            written.
    """
    checkpoint_folder.check_scheme(workdir, "--workdir")
    lock = (
        StoreLock(workdir, "--workdir") if is_store(workdir) else FolderLock(workdir, "--workdir")
    )

    def acquire() -> None:
        _make(workdir)
        if not is_store(workdir):
            mounts.check_folder_renames(workdir, "--workdir")
        lock.acquire()

    coordination.run_on_process_zero(acquire)
    try:
        yield
    finally:
        lock.release()


def _make(workdir: Path) -> None:
    if is_store(workdir):  # which has no empty folders
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(workdir, error) from error


def _resolve(config: Config, workdir: Path, allow_changes: bool) -> Config:
    """The configuration to train with, written into `workdir`.

    What the first run decided by itself (None in the configuration) stays as it was decided.
    """
    path = workdir / "config.json"
    resolved = dataclasses.replace(
        config,
        task=dataclasses.replace(config.task),
        data=dataclasses.replace(config.data, shuffle=config.data.shuffle or "full"),
        model=dataclasses.replace(config.model, scan=common.resolve_scan(config.model.scan)),
    )
    old = serialization.load(workdir) if path.exists() else None
    references = [("model", "pretrained"), *(("task", name) for name in config.task.REFERENCES)]
    for section, name in references:
        named = getattr(getattr(config, section), name)
        if named is not None:
            previous = getattr(getattr(old, section, None), name, None)
            setattr(getattr(resolved, section), name, reference.pin(named, previous))
    resolved = with_described_model(resolved, old)
    if old is not None:
        if config.model.scan is None:
            resolved.model.scan = old.model.scan
        if config.data.shuffle is None:
            resolved.data.shuffle = old.data.shuffle
        changed = dotted.differences(old, resolved)
        # Before the first checkpoint there is nothing that a change could spoil: a run that ended
        # over a wrong setting or absent data starts again with the right one.
        if changed and not allow_changes and run_data.has_checkpoints(workdir):
            raise UserError(_refusal(workdir, changed))
    _make(workdir)
    write_text(path, serialization.to_json(resolved))
    return resolved


def with_described_model(config: Config, old: Config | None = None) -> Config:
    """`config` with what the files say of the weights that the run starts from.

    Args:
        old: of the run so far; where it started from the same weights, they are not read again.
    """
    config = run_data.task_class(config).with_pretrained(config, old)
    return with_described_kwargs(config, old)


def with_described_kwargs(config: Config, old: Config | None = None) -> Config:
    """`config` with the fields of the backbone that the files of `config.model.pretrained` say.

    No tensor shows these (see `loader.described_fields`); what `config.model.kwargs` sets holds.

    Args:
        old: of the run so far; where it started from the same weights, they are not read again.
    """
    model = config.model
    if model.pretrained is None or model.backbone not in models.list_models():
        return config
    start = (model.pretrained, model.backbone)
    if old is not None and (old.model.pretrained, old.model.backbone) == start:
        names = ("activation", "norm_eps")
        described = {name: old.model.kwargs[name] for name in names if name in old.model.kwargs}
    else:
        described = described_fields(model.pretrained, model.backbone)
    kwargs = {**described, **model.kwargs}
    return dataclasses.replace(config, model=dataclasses.replace(model, kwargs=kwargs))


def _refusal(workdir: Path, changed: dict[str, tuple[Any, Any]]) -> str:
    lines = (
        f"  config.{name}: trained with {old!r}, now {new!r}"
        for name, (old, new) in changed.items()
    )
    return (
        f"{workdir} was trained with another configuration:\n"
        + "\n".join(lines)
        + "\ntake another --workdir, or say --allow_changes to go on all the same"
    )
