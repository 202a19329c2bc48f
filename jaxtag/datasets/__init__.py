"""Data sets of images with captions, labels or tags, official or a user's own, as ArrayRecord."""

import os
from pathlib import Path

from jaxtag.datasets.base import ImageDatasetBuilder
from jaxtag.datasets.builders import NAMES, builder_class, register_dataset
from jaxtag.datasets.custom import CustomDataset, custom_dataset
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.datasets.dry_run import describe_listing
from jaxtag.datasets.forms.registry import FormChoice
from jaxtag.datasets.prepared import data_dir, open_split
from jaxtag.datasets.store_staging import local_source
from jaxtag.datasets.summary import Summary
from jaxtag.datasets.write import write_dataset
from jaxtag.errors import UsageError, UserError
from jaxtag.storage.paths import make_path

__all__ = [
    "NAMES",
    "ImageDatasetBuilder",
    "Summary",
    "builder_class",
    "data_dir",
    "download_instructions",
    "dry_run",
    "open_split",
    "prepare",
    "register_dataset",
]


def _expanded(path: str | os.PathLike[str], setting: str) -> Path:
    try:
        return make_path(path, setting).expanduser()
    except RuntimeError as error:  # a container whose user has no home
        raise UserError(f"{setting}={path}: {error}") from error


def prepare(
    dataset: str,
    source: str | os.PathLike[str] | None,
    data_dir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    keep_exif: bool = False,
    num_threads: int | None = None,
    wait_seconds: float = 0,
    accept_doubtful: bool = False,
    form: str | None = None,
) -> Summary:
    """Writes a data set to `data_dir/<dataset>/<version>/`, unless it is there already.

    Every image is decoded once on the way; a bad one is left out and named, with the reason, in
    `ledger.jsonl` beside the records. The folder appears when it is complete, or not at all.

    Args:
        dataset: One of NAMES, a registered name, `package.module:Name` of a builder, or any other
            name for own data.
        source: The folder (or archive, or own table) to read; None for `shapes_captions`.
        data_dir: tfds's root folder.
        overwrite: Replace a data set that is there.
        keep_exif: Store files as they are, with all their metadata.
        num_threads: Threads that read and decode; one a core by default.
        wait_seconds: How long to wait for another process that prepares the same data set.
        accept_doubtful: Write it in spite of what looks like a mistake, such as classes that only
            validation has.
        form: The form that own data are in, one of `forms.registry.NAMES`, also with `:captions` or
            `:tags` behind it; by default it is detected.

    Raises:
        UsageError: The name cannot be one of a data set, or a source is missing or superfluous.
        UserError: The source is not what it should be, the disk is full or read-only, or another
            process prepares the same data set.
    """
    builder, path = _resolved(dataset, source, form)
    folder = _expanded(data_dir, "--data_dir")
    with local_source(path) as local:
        return write_dataset(
            builder,
            local,
            folder,
            overwrite=overwrite,
            keep_exif=keep_exif,
            num_threads=num_threads,
            wait_seconds=wait_seconds,
            accept_doubtful=accept_doubtful,
        )


def dry_run(dataset: str, source: str | os.PathLike[str] | None, *, form: str | None = None) -> str:
    """What `prepare` would make of a source, for people; writes nothing and decodes no image.

    Raises:
        UsageError, UserError: As `prepare`.
    """
    builder, path = _resolved(dataset, source, form)
    with local_source(path) as local, builder.open_listing(local) as listing:
        return describe_listing(dataset, listing)


def _resolved(
    dataset: str, source: str | os.PathLike[str] | None, form: str | None
) -> tuple[type[ImageDatasetBuilder], Path | None]:
    """The builder of a data set and the path of its source, which exists."""
    builder = builder_class(dataset)
    if form is not None:
        if not issubclass(builder, CustomDataset):
            raise UsageError(f"--as={form}: {dataset} is read from its official files only")
        builder = custom_dataset(dataset, FormChoice.parse(form))
    if builder.NEEDS_SOURCE:
        commands = download_instructions(dataset)
        if source is None:
            raise UsageError(f"{dataset} is read from files: say where with --source.\n{commands}")
        path = _expanded(source, "--source")
        try:
            exists = path.exists()
        except OSError as error:
            raise UserError(f"--source={path}: {error.strerror}") from error
        if not exists:
            raise UserError(f"--source={path} does not exist.\n{commands}")
        return builder, path
    if source is not None:
        raise UsageError(f"{dataset} is made from a seed and takes no --source")
    return builder, None
