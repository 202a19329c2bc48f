"""Opens data sets that were prepared, and says how to get those that were not."""

import os
import re
import shlex
from pathlib import Path

import tensorflow_datasets as tfds

from jaxtag.data.sources import PreparedSource
from jaxtag.datasets.builders import dataset_name
from jaxtag.datasets.download_instructions import download_instructions
from jaxtag.errors import UserError
from jaxtag.storage.paths import make_path, require_gs

_VERSION = re.compile(r"^\d+\.\d+\.\d+$")


def data_dir(flag: str | os.PathLike[str] | None = None) -> Path:
    """The folder of data sets: `flag`, else $TFDS_DATA_DIR, else tfds's own default."""
    folder = flag or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    try:
        path = make_path(folder, "--data_dir").expanduser()
        require_gs(path, "--data_dir", "ArrayRecord reads no records there")
        return path
    except RuntimeError as error:  # a container whose user has no home
        raise UserError(f"the folder of data sets {folder}: {error}; give --data_dir") from error


def open_split(
    dataset: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> PreparedSource:
    """Opens a split of a prepared data set.

    Args:
        dataset: `name`, `name/config`, `name:1.0.0` or `package.module:Name`; without a version
            the newest one.
        split: A split such as `train`, or a slice in tfds's notation (`train[:10%]`).
        data_dir: The folder of data sets; see `data_dir`.

    Raises:
        UserError: It is absent (with the commands that prepare it), incomplete, or stored in
            another format.
    """
    folder = _version_folder(dataset, data_dir)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # damaged descriptions raise many kinds
        raise UserError(
            f"the description of {folder} is damaged ({error}): delete the folder and prepare the "
            "data set again"
        ) from error
    try:
        files = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        names = ", ".join(sorted(builder.info.splits)) or "none"
        why = f" ({error})" if "[" in split else ""  # a slice that tfds does not understand
        raise UserError(
            f"{folder} has no split {split!r} (it has: {names}){why}: name one with "
            "--config.data.train_split, --config.data.evaluation_split or --split"
        ) from error
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"{folder} is stored as {builder.info.file_format.value}, which has no random access: "
            "prepare it again with python -m jaxtag.prepare"
        )
    if not files:
        raise UserError(
            f"{folder} has no records in the split {split!r}: name another one with "
            "--config.data.train_split, --config.data.evaluation_split or --split"
        )
    present = {path.name for path in folder.iterdir()}  # one request, on an object store
    absent = [file.filename for file in files if os.path.basename(file.filename) not in present]
    if absent:
        raise UserError(
            f"{folder} is incomplete, {len(absent)} file(s) are missing, such as {absent[0]}: "
            "delete the folder and prepare the data set again"
        )
    return PreparedSource(folder, split)


def _version_folder(dataset: str, flag: str | os.PathLike[str] | None) -> Path:
    """`DATA_DIR/<dataset>/<version>`, of the version asked for or of the newest one."""
    name, version = dataset_name(dataset)
    root = data_dir(flag)
    parent = root / name
    versions = []
    try:
        if parent.is_dir():
            versions = [
                folder.name
                for folder in parent.iterdir()
                if _VERSION.match(folder.name) and (folder / "dataset_info.json").is_file()
            ]
    except OSError as error:
        raise UserError(f"{parent} cannot be read: {error.strerror}") from error
    if not versions or (version and version not in versions):
        there = f" (it holds {', '.join(sorted(versions))})" if versions else ""
        commands = download_instructions(name, shlex.quote(os.fspath(flag)) if flag else None)
        raise UserError(f"the data set {dataset} is not prepared in {root}{there}.\n{commands}")
    return parent / (version or max(versions, key=lambda v: tuple(map(int, v.split(".")))))
