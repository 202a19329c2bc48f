"""A lock on a folder or file that one process at a time may write, with the name of its holder.

The file `LOCK` in the folder (`.NAME.lock` beside a file) names the holder's host, process and
start. On one host, and on network file systems that know locks, the operating system says whether
the holder lives: its lock goes with the process, however that ends. A holder on another host, on a
file system that does not pass locks on, touches the file every few seconds; one that has not for a
minute is gone.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError, write_error

LOCK = "lock.json"
_BEAT_SECONDS = 10.0
_STALE_SECONDS = 60.0
_POLL_SECONDS = 1.0

# The operating system's locks are those of a process: they do not hold out its own threads, and go
# when it closes the file that it opened a second time.
_held: set[str] = set()
_guard = threading.Lock()


class FolderLock:
    """Holds a folder from `acquire` to `release`, or as a context.

    Args:
        folder: It must exist.
        setting: The flag that names it, for messages: "--workdir".
        name: Of the lock's file; another one for a file in the folder.
        subject: What is locked, for messages; by default the folder.

    Raises:
        UserError: Another process holds it, or the lock cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        setting: str = "",
        *,
        name: str = LOCK,
        subject: str | os.PathLike[str] | None = None,
    ):
        self._folder, self._setting = Path(folder), setting
        self._subject = self._folder if subject is None else Path(subject)
        self._path = self._folder / name
        self._key = os.path.realpath(self._folder) + os.sep + name
        self._file: int | None = None
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock; waits only to see whether a holder on another host still lives."""
        with _guard:
            if self._key in _held:
                raise self._refusal({"host": socket.gethostname(), "pid": os.getpid()})
            _held.add(self._key)
        try:
            self._file = self._open()
            self._write()
        except BaseException as error:
            if self._file is not None:
                _close(self._file)
                self._file = None
            with _guard:
                _held.discard(self._key)
            if isinstance(error, OSError):
                raise write_error(self._subject, error, self._setting) from error
            raise
        self._ended.clear()
        self._heart = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Gives the folder free; does nothing where it is not held."""
        if self._file is None:
            return
        self._ended.set()
        assert self._heart is not None
        self._heart.join()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._path.unlink()
        _close(self._file)
        self._file = None
        with _guard:
            _held.discard(self._key)

    def _open(self) -> int:
        """The descriptor of the file, locked."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno in (errno.EACCES, errno.EAGAIN):
                        raise self._refusal(_read(file)) from None
                    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                        raise
                self._wait_for_other_host(file)
            except BaseException:
                _close(file)
                raise
            if _same_file(self._path, file):
                return file
            _close(file)  # its holder has removed it in between

    def _wait_for_other_host(self, file: int) -> None:
        """Returns when a holder on another host has shown no life for a minute."""
        holder = _read(file)
        if not holder or holder.get("host") == socket.gethostname():
            return  # on this host the operating system has answered
        beat = os.fstat(file).st_mtime_ns
        until = time.monotonic() + _STALE_SECONDS - min(_age(file), _STALE_SECONDS)
        while time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            if os.fstat(file).st_mtime_ns != beat:
                raise self._refusal(holder)

    def _write(self) -> None:
        assert self._file is not None
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, (json.dumps(holder) + "\n").encode(), 0)

    def _beat(self) -> None:
        assert self._file is not None
        while not self._ended.wait(_BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def _is_ours(self) -> bool:
        return self._file is not None and _same_file(self._path, self._file)

    def _refusal(self, holder: dict[str, Any]) -> UserError:
        kind = "folder" if self._subject == self._folder else "file"
        return in_use_error(self._subject, holder, self._setting, kind)


def in_use_error(
    subject: str | os.PathLike[str], holder: dict[str, Any], setting: str, kind: str
) -> UserError:
    """What to say of a folder or file that another process holds.

    Args:
        subject: The folder or file.
        holder: Its `host`, `pid` and `since`, where they are known.
        setting: The flag that names it.
        kind: "folder" or "file".
    """
    name = f"{setting}={subject}" if setting else str(subject)
    who = f"process {holder.get('pid', '?')} on {holder.get('host', 'an unknown host')}"
    since = f", since {holder['since']}" if "since" in holder else ""
    return UserError(
        f"{name} is in use by {who}{since}: wait for it, end it, or take another {kind}"
    )


def _close(file: int) -> None:
    with contextlib.suppress(OSError):  # of storage that fails: it is closed all the same
        os.close(file)


def _read(file: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _age(file: int) -> float:
    """Seconds since the file was touched, by this host's clock; never below 0."""
    return max(0.0, time.time() - os.fstat(file).st_mtime)


def _same_file(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
