"""A lock on a folder of an object store, by the generation of an object.

`LOCK` in the folder names its holder, as in `jaxtag.storage.lock`. It is created only where there
is none, and written and deleted only at the generation that was read, so that of two processes one
wins. Its holder writes it anew every few seconds; a holder that has not for a minute is gone, and
so is one of this host whose process has ended.
"""

import contextlib
import datetime
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from absl import logging

from jaxtag.errors import StorageError
from jaxtag.storage import store_errors
from jaxtag.storage.lock import LOCK, in_use_error

_BEAT_SECONDS = 10.0
_STALE_SECONDS = 60.0
_POLL_SECONDS = 2.0

# About a minute; TensorStore's default is a quarter of an hour.
_RETRIES = {"max_retries": 7, "initial_delay": "1s", "max_delay": "16s"}

_held: "set[StoreLock]" = set()


def check_held() -> None:
    """Raises StorageError where another process has taken a lock of this one, which was held up."""
    for lock in list(_held):
        lock.check()


class StoreLock:
    """Holds a folder of an object store from `acquire` to `release`, or as a context.

    Args:
        folder: `gs://…` or `s3://…`.
        setting: The flag that names it, for messages: "--workdir".

    Raises:
        UserError: Another process holds it, or the lock cannot be written.
    """

    def __init__(self, folder: Path, setting: str = ""):
        self._folder, self._setting = folder, setting
        self._store: Any = None  # of TensorStore, which writes at a generation
        self._generation: bytes | None = None
        self._holder: dict[str, Any] = {}
        self._is_lost = False
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> "StoreLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Takes the lock; waits only to see whether a holder on another host still lives."""
        import tensorstore  # of a store alone

        self._holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_namespace": _pid_namespace(),
            "started": _start_time(os.getpid()),
            "token": secrets.token_hex(8),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        try:
            context = tensorstore.Context({"gcs_request_retries": _RETRIES})
            self._store = tensorstore.KvStore.open(_spec(self._folder), context=context).result()
            while not self._try_to_take():
                pass
        except Exception as error:
            converted = store_errors.as_user_error(error, self._folder, self._setting, "written")
            if converted is None:
                raise
            raise converted from error
        self._is_lost = False
        _held.add(self)
        self._ended.clear()
        self._heart = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._heart.start()

    def release(self) -> None:
        """Gives the folder free; does nothing where it is not held."""
        if self._generation is None:
            return
        self._ended.set()
        assert self._heart is not None
        self._heart.join()
        with contextlib.suppress(Exception):  # who comes next sees that this process has ended
            self._store.write(LOCK, None, if_equal=self._generation).result()
        self._generation = None
        _held.discard(self)

    def check(self) -> None:
        """Raises StorageError where another process has taken the lock."""
        if self._is_lost:
            raise StorageError(
                f"{self._folder} was taken over by another run, because this process had not "
                f"reached it for {_STALE_SECONDS:.0f} seconds: see that one run alone writes to it"
            )

    def _try_to_take(self) -> bool:
        """Takes the lock where it is free, or its holder is gone; else refuses."""
        result = self._store.read(LOCK).result()
        if result.state == "value":
            self._wait_for_holder(result)
        return self._write(result.stamp.generation)  # that of "missing", where there is none

    def _write(self, generation: bytes) -> bool:
        """Writes the lock at `generation`; False where it has another by now."""
        body = json.dumps({**self._holder, "beat": time.time()}) + "\n"
        self._store.write(LOCK, body.encode(), if_equal=generation).result()
        written = self._store.read(LOCK).result()
        # The answer to a write may get lost, and its repetition then fails: what is there tells.
        if _parse(written.value).get("token") != self._holder["token"]:
            return False
        self._generation = written.stamp.generation
        return True

    def _wait_for_holder(self, result: Any) -> None:
        """Returns when the holder is gone. Raises UserError where it lives."""
        holder, generation = _parse(result.value), result.stamp.generation
        if (holder.get("host"), holder.get("pid_namespace")) == (
            socket.gethostname(),
            _pid_namespace(),
        ):
            if _lives(holder):
                raise in_use_error(self._folder, holder, self._setting, "folder")
            return
        age = time.time() - float(holder.get("beat", time.time()))
        until = time.monotonic() + _STALE_SECONDS - min(max(age, 0.0), _STALE_SECONDS)
        while time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
            if self._store.read(LOCK).result().stamp.generation != generation:
                raise in_use_error(self._folder, holder, self._setting, "folder")

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT_SECONDS):
            assert self._generation is not None
            try:
                held = self._write(self._generation)
            except Exception as error:
                logging.warning("%s/%s: %s", self._folder, LOCK, store_errors.first_line(error))
                continue
            if not held:
                self._is_lost = True
                return


def _spec(folder: Path) -> dict[str, Any]:
    """What TensorStore is to open, a folder of gs:// or s3://."""
    scheme, _, name = os.fspath(folder).partition("://")
    bucket, _, path = name.partition("/")
    spec = {"driver": {"gs": "gcs"}.get(scheme, scheme), "bucket": bucket, "path": f"{path}/"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL")  # s3fs reads it by itself
    return spec | ({"endpoint": endpoint} if scheme == "s3" and endpoint else {})


def _parse(value: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(value)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the holder, a process of this host, still runs; another may have its number."""
    pid = holder.get("pid")
    started = _start_time(pid) if isinstance(pid, int) else None
    return started is not None and started == holder.get("started")


def _start_time(pid: int) -> str | None:
    """When a process of this host started, in ticks since the boot; None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]  # a zombie has ended


def _pid_namespace() -> str:
    """Containers of one host count their processes each by itself."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
