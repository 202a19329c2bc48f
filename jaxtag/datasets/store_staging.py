"""Preparing from and to object stores.

ArrayRecord's writer knows no stores. So each shard is written in this machine's temporary folder,
uploaded, and deleted there before the next one grows; the description of the data set, without
which nobody reads it, is uploaded last. A preparation that was interrupted goes on with the images
that it had verified, on the same machine.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from array_record.python import array_record_module
from tensorflow_datasets.core import file_adapters

from jaxtag.data.columns import columns_path, write_columns_of_shard
from jaxtag.datasets.archives import is_archive
from jaxtag.datasets.summary import Summary
from jaxtag.storage import store_errors, transfer
from jaxtag.storage.paths import is_store
from jaxtag.storage.store_lock import StoreLock

_DESCRIPTION = "dataset_info.json"


def write_dataset_to_store(
    write: Callable[[Path], Summary], final: Path, *, overwrite: bool
) -> Summary:
    """Prepares one data set in a store unless it is there already.

    Args:
        write: Prepares it below a local folder.
        final: `DATA_DIR/<dataset>/<version>` of the store.
        overwrite: Replace one that is there.

    Raises:
        UserError: Another process prepares it, the store fails, or what `write` raises.
    """
    with store_errors.named(final):
        if not overwrite and (final / _DESCRIPTION).exists():
            return Summary.load(final)
        local = _local_root(final)
        with StoreLock(final.parent, "--data_dir"):
            # Without its description, what is left of a replaced or half-written one is none.
            transfer.remove(final / _DESCRIPTION)
            transfer.remove_folder(final)
            local.mkdir(parents=True, exist_ok=True)
            summary = write(local)
            assert summary.folder is not None
            _upload_description(summary.folder, final)
            shutil.rmtree(local, ignore_errors=True)
    summary.folder = final
    return summary


@contextlib.contextmanager
def local_source(source: Path | None) -> Iterator[Path | None]:
    """A context with a local copy of a source of a store; a local one is given as it is.

    A table of captions or tags is copied with all that lies beside it.
    """
    if source is None or not is_store(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="jaxtag-source-") as folder, store_errors.named(source):
        local, root = Path(folder), source
        names = list(transfer.list_objects(source))
        if not names and is_archive(source.name):
            root, names = source.parent, [source.name]
        elif not names and source.exists():
            root = source.parent
            names = list(transfer.list_objects(root))
        transfer.download_all((root / name, local / name) for name in names)
        yield local if root == source else local / source.name


def _local_root(final: Path) -> Path:
    """The folder of a preparation, the same when it is started again."""
    digest = hashlib.sha256(os.fspath(final).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"jaxtag-prepare-{os.getuid()}-{digest}"


@contextlib.contextmanager
def shards_go_to(final: Path | None, features: Mapping[str, Any]) -> Iterator[None]:
    """A context in which tfds's shards of ArrayRecord are uploaded, and their files emptied.

    Args:
        final: The folder of a store; None: they stay where they are.
        features: Of the records, for the columns that go beside them.
    """
    if final is None:
        yield
        return
    adapter: Any = file_adapters.ArrayRecordFileAdapter
    write = adapter.write_examples.__func__

    def write_examples(cls: Any, path: str | os.PathLike[str], iterator: Iterable[Any]) -> Any:
        positions = write(cls, path, iterator)
        shard = Path(path)
        transfer.upload(shard, final / shard.name)
        count = array_record_module.ArrayRecordReader(os.fspath(shard)).num_records()
        records = types.SimpleNamespace(filename=os.fspath(shard), skip=0, take=count)
        write_columns_of_shard(columns_path(final, shard.name), records, features)
        shard.write_bytes(b"")
        return positions

    adapter.write_examples = classmethod(write_examples)
    try:
        yield
    finally:
        adapter.write_examples = classmethod(write)


def _upload_description(folder: Path, final: Path) -> None:
    """Uploads what lies beside the shards, the description last."""
    names = [path.name for path in folder.iterdir() if ".array_record-" not in path.name]
    for name in sorted(names, key=lambda name: name == _DESCRIPTION):
        transfer.upload(folder / name, final / name)
