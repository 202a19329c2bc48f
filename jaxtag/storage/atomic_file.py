"""Write-then-rename: a file has its name only when it is complete.

A file is written beside its place under a random name, `PATH.<random>.partial`, that is created
with O_EXCL and O_NOFOLLOW, and renamed to `PATH`. So no reader and no killed process ever leaves
half of one, and nobody can lead a write elsewhere by a link under a foreseeable name. A link as
`PATH` is followed; only plain files are replaced: a growing file goes straight into a device or
pipe, and a whole file is refused there. An OSError (a full disk, a folder that is read-only)
becomes a UserError that names the file.

A file of an object store is written in this machine's temporary folder and uploaded when it is
complete: an object has always appeared at once, and whole.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from jaxtag.errors import write_error
from jaxtag.storage import store_errors, transfer
from jaxtag.storage.lock import FolderLock
from jaxtag.storage.paths import is_store, make_path

# Python holds a byte of a file name that is not UTF-8 as half of a surrogate pair.
# backslashreplace writes it as \udcXX, which means the same in JSON.
_ENCODING_ERRORS = "backslashreplace"
_MAX_NAME_BYTES = 200  # file systems allow 255
_STANDARD_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial$|\.partial$")


class AtomicFile:
    """A text file that grows under another name until `finish` gives it its own.

    One process at a time writes a file: `.NAME.lock` beside it names the holder, and goes with it.
    What killed processes left of the same file is removed, or gone on with. A device, a pipe or one
    of the standard streams is written to directly.

    Args:
        path: The file.
        setting: The flag that names it, for messages: "--output".
        resume: Go on with the longest unfinished file, whose complete lines stay.

    Attributes:
        resumed: Whether there was one.

    Raises:
        UserError: The file cannot be created, or another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str], setting: str = "", *, resume: bool = False):
        self._path, self._setting, self._resume = make_path(path, setting), setting, resume
        self.resumed = False
        self._partial: Path | None = None
        self._lock: FolderLock | None = None
        self._file: TextIO | None = None
        self._object: Path | None = None  # of a store, which `_target` is uploaded to
        with _os_error_as_user_error(self._path, setting):
            if is_store(self._path):
                self._object = self._path
                self._target = _download_partials(self._path, resume)
                descriptor = self._create()
            elif is_stream(self._path):
                descriptor = _open_stream(self._path)
            else:
                _check_not_folder(self._path)
                self._target = Path(os.path.realpath(self._path))
                descriptor = self._create()
        self._file = open(  # noqa: SIM115
            descriptor, "w", buffering=1, encoding="utf-8", errors=_ENCODING_ERRORS, newline=""
        )

    def _create(self) -> int:
        self._lock = FolderLock(
            self._target.parent,
            self._setting,
            name=f".{_short(self._target.name)}.lock",
            subject=self._path,
        )
        self._lock.acquire()
        try:
            stale = sorted(stale_partials(self._target), key=lambda path: path.stat().st_size)
            unfinished = stale.pop() if self._resume and stale else None
            for path in stale:
                path.unlink()
            if unfinished is not None:
                descriptor, self._partial = open_for_lines(unfinished), unfinished
                self.resumed = True
            else:
                descriptor, self._partial = _create_partial(self._target)
        except BaseException:
            self._lock.release()
            raise
        return descriptor

    def write(self, text: str) -> None:
        """Appends `text`. Raises UserError where it cannot."""
        assert self._file is not None
        with _os_error_as_user_error(self._path, self._setting):
            self._file.write(text)

    @property
    def unfinished(self) -> Path | None:
        """The file that is being written; None for a device or pipe."""
        return self._partial

    def truncate(self, size: int) -> None:
        """Drops what was written behind the first `size` bytes."""
        assert self._file is not None
        with _os_error_as_user_error(self._path, self._setting):
            self._file.flush()
            os.ftruncate(self._file.fileno(), size)

    def replace(self, lines: Iterable[bytes]) -> None:
        """Puts other lines in the place of those written so far; nothing can be added then."""
        assert self._partial is not None
        with _os_error_as_user_error(self._path, self._setting):
            descriptor, new = _create_partial(self._target)
            with open(descriptor, "wb") as file:
                file.writelines(lines)
            new.replace(self._partial)

    def finish(self) -> None:
        """Closes the file and gives it its name. Raises UserError where it cannot."""
        assert self._file is not None
        with _os_error_as_user_error(self._path, self._setting):
            self._file.close()
            if self._partial is not None:
                self._partial.replace(self._target)
                if self._object is not None:
                    transfer.upload(self._target, self._object)
                    for partial in stale_partials(self._object):
                        transfer.remove(partial)
                    self._partial = None
        self.close()

    def close(self) -> None:
        """Gives the file up where it is not finished; what was written keeps its other name."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written cannot be flushed
                self._file.close()
        if self._lock is not None:
            self._lock.release()
        if self._object is not None:
            self._leave_partial(self._object)

    def _leave_partial(self, path: Path) -> None:
        """Uploads what is not finished under its other name, and removes the local folder."""
        partial, self._partial, self._object = self._partial, None, None
        try:
            if partial is not None and partial.exists() and partial.stat().st_size:
                with _os_error_as_user_error(self._path, self._setting):
                    transfer.upload(partial, path.with_name(partial.name))
        finally:
            shutil.rmtree(self._target.parent, ignore_errors=True)


class AppendedFile:
    """A text file of lines that grows under its own name; a last line that was cut is dropped.

    One process at a time writes it, as an `AtomicFile`.

    Args:
        path: The file; it may be there.
        setting: The flag that names it, for messages: "--output".

    Raises:
        UserError: It cannot be written, or another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str], setting: str = ""):
        self.path, self._setting = Path(os.path.realpath(path)), setting
        with _os_error_as_user_error(self.path, setting):
            _check_not_folder(self.path)
            self._lock = FolderLock(
                self.path.parent, setting, name=f".{_short(self.path.name)}.lock", subject=path
            )
            self._lock.acquire()
            try:
                self.path.touch()
                descriptor = open_for_lines(self.path)
            except BaseException:
                self._lock.release()
                raise
        self._file = open(  # noqa: SIM115
            descriptor, "w", buffering=1, encoding="utf-8", errors=_ENCODING_ERRORS, newline=""
        )

    def write(self, text: str) -> None:
        """Appends `text`. Raises UserError where it cannot."""
        with _os_error_as_user_error(self.path, self._setting):
            self._file.write(text)

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._lock.release()


def write_text(path: str | os.PathLike[str], text: str, setting: str = "") -> None:
    """Writes a whole text file in UTF-8; see `replacing`."""
    write_bytes(path, text.encode("utf-8", _ENCODING_ERRORS), setting)


def write_bytes(
    path: str | os.PathLike[str], data: bytes, setting: str = "", *, sync: bool = False
) -> None:
    """Writes a whole file; see `replacing`."""
    with replacing(path, setting, sync=sync) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], setting: str = "", *, sync: bool = False
) -> Iterator[Path]:
    """Gives the path of an empty file to write to; renames it to `path` after the `with` block.

    Missing parent folders are created. When the block fails, the partial file is deleted and
    `path` is as it was.

    Args:
        path: The file. A link is followed.
        setting: The flag that names it, for messages: "--output".
        sync: Wait until the file and its name are on disk, so that they survive a power failure.

    Raises:
        UserError: An OSError occurred in the block or when the file was renamed, or there is
            something at `path` that is no regular file.
    """
    path = make_path(path, setting)
    if is_store(path):
        with tempfile.TemporaryDirectory(prefix="jaxtag-") as folder:
            local = Path(folder) / path.name
            local.touch()
            with _os_error_as_user_error(path, setting):
                yield local
                transfer.upload(local, path)
        return
    partial: Path | None = None
    try:
        with _os_error_as_user_error(path, setting):
            _check_not_folder(path)
            if is_stream(path):
                raise OSError(errno.EINVAL, "not a regular file")
            target = Path(os.path.realpath(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, partial = _create_partial(target)
            os.close(descriptor)
            yield partial
            if sync:
                _sync(partial)
            partial.replace(target)
            if sync:
                _sync(target.parent)
    except BaseException:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        raise


def stale_partials(path: str | os.PathLike[str]) -> list[Path]:
    """The unfinished files of `path`: of a process that writes it now, or of killed ones."""
    if is_store(path):
        target = make_path(path)
        names = [name for name in transfer.list_names(target.parent) if _is_partial(name, target)]
        return [target.parent / name for name in names]
    target = Path(os.path.realpath(path))
    try:
        names = sorted(os.listdir(target.parent))
    except OSError:
        return []
    return [target.parent / name for name in names if _is_partial(name, target)]


def _is_partial(name: str, target: Path) -> bool:
    start = _short(target.name)
    return name.startswith(start) and bool(_PARTIAL.fullmatch(name[len(start) :]))


def is_stream(path: Path) -> bool:
    """Whether `path` is a device, a pipe, a socket or one of the standard streams."""
    if is_store(path):
        return False
    if os.path.abspath(path).startswith(_STANDARD_STREAMS):
        return True
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _short(name: str) -> str:
    """A name, or a shorter one for it where what is added to it would make it too long."""
    encoded = os.fsencode(name)
    if len(encoded) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
    return f"{encoded[: _MAX_NAME_BYTES - 20].decode('utf-8', 'ignore')}~{digest}"


def _create_partial(target: Path) -> tuple[int, Path]:
    """Creates the file that becomes `target`, with the mode that the umask allows."""
    partial = target.with_name(f"{_short(target.name)}.{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(partial, flags, 0o666), partial


def open_for_lines(path: Path) -> int:
    """Opens a file of lines to append to; a last line that was cut is dropped."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    end = size = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - (1 << 16))
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        end = start + newline + 1
        if newline >= 0:
            break
    if end < size:
        os.ftruncate(descriptor, end)
    return descriptor


def _download_partials(path: Path, resume: bool) -> Path:
    """Where a file of a store is written, in a folder of its own, with what there is of it."""
    transfer.check_bucket(path)
    folder = Path(tempfile.mkdtemp(prefix="jaxtag-"))
    if resume:
        transfer.download_all((p, folder / p.name) for p in stale_partials(path))
    return folder / path.name


def _open_stream(path: Path) -> int:
    # Opening a pipe that nobody reads would wait for ever; so it is refused.
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, "not a regular file, and nobody reads from it") from error
        raise
    os.set_blocking(descriptor, True)
    return descriptor


@contextlib.contextmanager
def _os_error_as_user_error(path: Path, setting: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if (line := store_errors.as_user_error(error, path, setting, "written")) is not None:
            raise line from error
        if isinstance(error, OSError):
            raise write_error(path, error, setting) from error
        raise


def _check_not_folder(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
