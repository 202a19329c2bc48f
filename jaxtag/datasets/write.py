"""Writes a data set into its place: at once or not at all, and one process at a time.

It grows in `DATA_DIR/<dataset>/.preparing-<process>/` and is renamed to its place,
`DATA_DIR/<dataset>/<version>/`, when it is whole: no reader ever meets half of it. What a killed
run left is removed by the next one, but for the list of pictures that it found sound: they need not
be decoded again.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxtag.datasets.base import ImageDatasetBuilder, Listing
from jaxtag.datasets.summary import SUMMARY, Summary
from jaxtag.datasets.verified_cache import VerifiedCache
from jaxtag.datasets.verify import ImageVerifier, PrepareReport
from jaxtag.errors import UserError

LEDGER = "ledger.jsonl"
_STAGING, _REPLACED, _EXAMINED = ".preparing-", ".replaced-", ".examined"
_WRITING_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# tfds writes what it shuffles to disk once more when it is larger than this.
_SHUFFLED_IN_MEMORY = 1000 << 20


def write_dataset(
    builder_class: type[ImageDatasetBuilder],
    source: str | os.PathLike | None,
    data_dir: Path,
    *,
    overwrite: bool,
    keep_exif: bool,
    workers: int | None,
    wait_seconds: float,
) -> Summary:
    """Prepares one data set unless it is there already; see `builders.prepare`."""
    version = str(builder_class.VERSION)
    folder = data_dir / builder_class.name
    final = folder / version
    if final.exists() and not overwrite:
        return _already(final)
    # The source is looked through first: a mistake in it leaves no trace in `data_dir`.
    with builder_class.opened(source) as listing, _readable_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder, wait_seconds), VerifiedCache(folder / _EXAMINED) as examined:
            _clean(folder)
            if final.exists() and not overwrite:
                return _already(final)
            staging = folder / f"{_STAGING}{os.getpid()}"
            try:
                staging.mkdir()
                built, summary = _build(
                    builder_class, listing, examined, staging, keep_exif, workers
                )
                _put_in_place(built, final)
                examined.forget()
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    summary.folder = final
    return summary


def _build(
    builder_class: type[ImageDatasetBuilder],
    listing: Listing,
    examined: VerifiedCache,
    staging: Path,
    keep_exif: bool,
    workers: int | None,
) -> tuple[Path, Summary]:
    """Writes everything below `staging`; returns the folder of the version, and the counts."""
    total = sum(len(pictures) for pictures in listing.splits.values())
    _check_space(staging, listing.size)
    account = PrepareReport()
    for file, reason in listing.problems:
        account.leave_out("", file, reason)
    if len(examined):
        print(f"going on: {len(examined):,} pictures were examined before", file=sys.stderr)
    tfds.disable_progress_bar()  # ours shows the same, once
    bar = tqdm(total=total, unit=" pictures", desc=builder_class.name, disable=None, leave=False)
    with bar:
        check = ImageVerifier(
            account, examined, keep_exif=keep_exif, workers=workers, tick=bar.update
        )
        builder = builder_class(listing=listing, check=check, data_dir=str(staging))
        builder.download_and_prepare(download_dir=str(staging / "downloads"))
    if not account.pictures:
        raise UserError(_nothing(builder_class.name, account))
    version = str(builder_class.VERSION)
    built = staging / builder_class.name / version
    summary = Summary.of(builder_class.name, version, listing, account, builder_class.COUNTS)
    with open(built / LEDGER, "w", encoding="utf-8") as file:
        for entry in account.ledger:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    (built / SUMMARY).write_text(summary.to_json(), encoding="utf-8")
    return built, summary


def _nothing(dataset: str, account: PrepareReport) -> str:
    lines = [f"{dataset}: not one picture can be used"]
    lines += [f"  {entry['file']}: {entry['reason']}" for entry in account.ledger[:5]]
    if len(account.ledger) > 5:
        lines.append(f"  and {len(account.ledger) - 5:,} more")
    return "\n".join(lines)


def _already(final: Path) -> Summary:
    try:
        return Summary.load(final)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{final} exists but was not written by jaxtag, or is damaged ({error}): "
            "--overwrite replaces it"
        ) from error


def _put_in_place(built: Path, final: Path) -> None:
    replaced = final.with_name(f"{_REPLACED}{final.name}")
    if final.exists():
        final.rename(replaced)
    built.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def _clean(folder: Path) -> None:
    """Removes what a killed run left, and puts back what it had moved aside to replace it."""
    for replaced in folder.glob(f"{_REPLACED}*"):
        final = folder / replaced.name.removeprefix(_REPLACED)
        if final.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(final)
    for staging in folder.glob(f"{_STAGING}*"):
        shutil.rmtree(staging)


@contextlib.contextmanager
def _lock(folder: Path, wait_seconds: float) -> Iterator[None]:
    """Holds `folder/.lock`; the system lets go of it when the process ends, however it ends."""
    until = time.monotonic() + wait_seconds
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        said = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise UserError(
                        f"another process is preparing {folder.name} in {folder.parent}: "
                        "wait until it is done"
                    ) from None
            if not said:
                print(f"waiting for another process that prepares {folder.name}", file=sys.stderr)
                said = True
            time.sleep(0.2)
        yield


def _check_space(folder: Path, size: int) -> None:
    needed = size if size < _SHUFFLED_IN_MEMORY else 2 * size
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.parent} has {free / 1e6:,.0f} MB free, and about {needed / 1e6:,.0f} MB are "
            "needed: make room, or choose another --data_dir"
        )


@contextlib.contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    """A full or read-only disk becomes a message, as does a file of the source that cannot be read;
    tfds wraps such errors in others. All else is raised as it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = error
        while cause is not None:
            reason = _disk_reason(cause)
            if reason and (file := _foreign(cause, folder)):
                raise UserError(f"{file}: {reason}") from error
            if reason:
                raise UserError(f"{folder} cannot be written: {reason}") from error
            cause = cause.__cause__
        raise


def _foreign(error: BaseException, folder: Path) -> Path | None:
    """The file that an error is about, where it is neither in `folder` nor above it."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str | os.PathLike):
        return None
    file, folder = Path(name).absolute(), folder.absolute()
    return None if file in (folder, *folder.parents) or folder in file.parents else file


def _disk_reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        # Without a file it may be of a read from the source, unless only writing fails so.
        return error.strerror if error.filename or error.errno in _WRITING_FAILED else ""
    # ArrayRecord's writer is C++: its errors carry the system's text only.
    known = ("No space left on device", "File too large", "Disk quota exceeded")
    return next((text for text in known if text in str(error)), "")
