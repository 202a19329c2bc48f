"""Writes a prepared data set: complete or not at all, and one process at a time.

It grows in `DATA_DIR/<dataset>/.preparing-<process>/` and is renamed to
`DATA_DIR/<dataset>/<version>/` when it is complete, so that no reader ever meets half of it. What a
killed run left is removed by the next one, but for the list of images that it verified: they need
not be decoded again.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tqdm import tqdm

from jaxtag.data.columns import write_columns
from jaxtag.datasets import store_staging
from jaxtag.datasets.base import ImageDatasetBuilder, Listing
from jaxtag.datasets.summary import SUMMARY, Summary
from jaxtag.datasets.verify import ImageVerifier, PrepareReport, VerifiedCache
from jaxtag.errors import UserError, storage_error_kind
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.paths import is_store

LEDGER = "ledger.jsonl"
_STAGING, _REPLACED, _VERIFIED = ".preparing-", ".replaced-", ".examined"
_WRITING_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_DISK_ERRORS = (*_WRITING_FAILED, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENODEV)
# tfds writes what it shuffles to disk once more when it is larger than this.
_SHUFFLED_IN_MEMORY = 1000 << 20


def write_dataset(
    builder_class: type[ImageDatasetBuilder],
    source: str | os.PathLike[str] | None,
    data_dir: Path,
    *,
    overwrite: bool,
    keep_exif: bool,
    num_threads: int | None,
    wait_seconds: float,
    accept_doubtful: bool = False,
    shards_to: Path | None = None,
) -> Summary:
    """Prepares one data set unless it is there already; see `datasets.prepare`.

    Args:
        shards_to: A folder of a store that its shards go to, each when it is written.
    """
    if is_store(data_dir):
        final = data_dir / builder_class.name / str(builder_class.VERSION)
        return store_staging.write_dataset_to_store(
            functools.partial(
                write_dataset,
                builder_class,
                source,
                overwrite=True,
                keep_exif=keep_exif,
                num_threads=num_threads,
                wait_seconds=wait_seconds,
                accept_doubtful=accept_doubtful,
                shards_to=final,
            ),
            final,
            overwrite=overwrite,
        )
    version = str(builder_class.VERSION)
    folder = data_dir / builder_class.name
    final = folder / version
    with readable_errors(folder):
        if final.exists() and not overwrite:
            _clean_if_free(folder)
            return load_summary(final)
    # The source is listed first: a mistake in it leaves no trace in `data_dir`.
    with readable_errors(folder), builder_class.open_listing(source) as listing:
        _settle_doubts(listing, accept_doubtful)
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder, wait_seconds), VerifiedCache(folder / _VERIFIED) as cache:
            _clean(folder)
            if final.exists() and not overwrite:
                return load_summary(final)
            staging = folder / f"{_STAGING}{os.getpid()}"
            try:
                staging.mkdir()
                built, summary = _build(
                    builder_class, listing, cache, staging, keep_exif, num_threads, shards_to
                )
                put_in_place(built, final)
                cache.delete()
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    summary.folder = final
    return summary


def _build(
    builder_class: type[ImageDatasetBuilder],
    listing: Listing,
    cache: VerifiedCache,
    staging: Path,
    keep_exif: bool,
    num_threads: int | None,
    shards_to: Path | None,
) -> tuple[Path, Summary]:
    """Writes everything below `staging`; returns the folder of the version, and the counts."""
    total = sum(len(images) for images in listing.splits.values())
    _check_space(staging, listing.size)
    report = PrepareReport()
    for file, reason in listing.problems:
        report.reject("", file, reason)
    for file, note in listing.notes:
        report.note("", file, note)
    if len(cache):
        print(f"going on: {len(cache):,} images were verified before", file=sys.stderr)
    tfds.disable_progress_bar()  # ours shows the same, once
    with tqdm(
        total=total, unit=" images", desc=builder_class.name, disable=None, leave=False
    ) as bar:
        verify = ImageVerifier(
            report, cache, keep_exif=keep_exif, num_threads=num_threads, tick=bar.update
        )
        builder = builder_class(listing=listing, verify=verify, data_dir=str(staging))
        with store_staging.shards_go_to(shards_to, builder.info.features):
            builder.download_and_prepare(download_dir=str(staging / "downloads"))
    if not report.images:
        raise UserError(_no_images(builder_class.name, report))
    version = str(builder_class.VERSION)
    built = staging / builder_class.name / version
    summary = Summary.from_report(
        builder_class.name, version, listing, report, builder_class.COUNTS
    )
    if shards_to is None:
        write_columns(built)
    entries = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in report.ledger)
    write_text(built / LEDGER, "".join(entries))
    write_text(built / SUMMARY, summary.to_json())
    return built, summary


def _settle_doubts(listing: Listing, accept_doubtful: bool) -> None:
    """Raises UserError for what looks like a mistake; warns of it where the user insists."""
    if listing.doubts and not accept_doubtful:
        raise UserError(
            "; ".join(listing.doubts) + ". Put it right, or prepare it all the same with "
            "--accept_doubtful"
        )
    listing.warnings += listing.doubts


def _no_images(dataset: str, report: PrepareReport) -> str:
    lines = [f"{dataset}: not one image can be used"]
    entries = [entry for entry in report.ledger if not entry.get("used")]
    lines += [f"  {entry['file']}: {entry['reason']}" for entry in entries[:5]]
    if len(entries) > 5:
        lines.append(f"  and {len(entries) - 5:,} more")
    return "\n".join(lines)


def load_summary(final: Path) -> Summary:
    try:
        return Summary.load(final)
    except (UserError, TypeError) as error:
        raise UserError(
            f"{final} exists but was not written by jaxtag, or is damaged ({error}): "
            "--overwrite replaces it"
        ) from error


def put_in_place(built: Path, final: Path) -> None:
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


def _clean_if_free(folder: Path) -> None:
    """As `_clean`, where there is something and no other process prepares the data set."""
    if any(path for kind in (_STAGING, _REPLACED) for path in folder.glob(f"{kind}*")):
        with contextlib.suppress(UserError, OSError), lock(folder, wait_seconds=0):
            _clean(folder)


@contextlib.contextmanager
def lock(folder: Path, wait_seconds: float) -> Iterator[None]:
    """Holds `folder/.lock`; the system releases it when the process ends, however it ends."""
    deadline = time.monotonic() + wait_seconds
    with open(folder / ".lock", "a", encoding="utf-8") as file:
        has_announced = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"another process is preparing {folder.name} in {folder.parent}: "
                        "wait until it is done"
                    ) from None
            if not has_announced:
                print(f"waiting for another process that prepares {folder.name}", file=sys.stderr)
                has_announced = True
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
def readable_errors(folder: Path) -> Iterator[None]:
    """Turns errors of the disk into messages; raises all others as they are.

    Such are a full or read-only disk and a file of the source that cannot be read; tfds wraps them
    in others.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            number, reason = _disk_error(cause)
            kind = storage_error_kind(number)
            if reason and (file := _outside_file(cause, folder)):
                raise kind(f"{file}: {reason}") from error
            if reason and isinstance(cause, OSError) and _is_anywhere(cause):
                raise kind(
                    f"{folder.name}: a disk fails, that of the source or of {folder}: {reason}"
                ) from error
            if reason:
                raise kind(f"{folder} cannot be written: {reason}") from error
            cause = cause.__cause__ or cause.__context__
        raise


def _is_anywhere(error: OSError) -> bool:
    """Whether an error names no file and may be of reading as well as of writing."""
    return not error.filename and error.errno not in _WRITING_FAILED


def _outside_file(error: BaseException, folder: Path) -> Path | None:
    """The file that an error is about, where it is neither in `folder` nor above it."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str | os.PathLike):
        return None
    file, folder = Path(name).absolute(), folder.absolute()
    return None if file in (folder, *folder.parents) or folder in file.parents else file


def _disk_error(error: BaseException) -> tuple[int | None, str]:
    """The number and the system's text of an error of the disk; (None, "") of any other error."""
    if isinstance(error, OSError) and error.strerror:
        return error.errno, error.strerror
    # ArrayRecord's writer is C++: its errors carry the system's text only.
    texts = ((number, os.strerror(number)) for number in _DISK_ERRORS)
    return next(((number, text) for number, text in texts if text in str(error)), (None, ""))
