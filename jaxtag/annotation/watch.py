"""Annotates the new files of folders as soon as they are written to the end."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jaxtag.annotation.annotator import Annotator
from jaxtag.tasks.base import Row

_BATCH_SIZES = (8, 1)  # files predicted together
_POLL_SECONDS = 1.0
_SETTLE_SECONDS = 1.5  # without a change
_RETRY_SECONDS = 5.0
_DAMAGED_SECONDS = 60.0  # without a change, before an image that cannot be decoded is damaged

_State = tuple[int, int, int]  # size, time of change in ns, inode


@dataclasses.dataclass
class _Candidate:
    """A new file.

    Attributes:
        state: when it was last looked at.
        since: when it was first seen in this state.
        due: when it may be read.
    """

    state: _State
    since: float
    due: float


class Watcher:
    """Tells new files that are complete from those that are being written.

    A file is complete when its size and time of change have been the same for 1.5 seconds and no
    process of this machine has it open for writing; what other machines do on a shared disk cannot
    be seen. What changed while it was read is read again, and so is for a minute what cannot be
    decoded: a copy that stalled is not taken for a damaged image.

    A context: the signal of a lease that is broken (`is_open_for_writing`), which would end the
    process, is ignored in it.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._candidates: dict[str, _Candidate] = {}
        self._handler: Any = None

    def __enter__(self) -> "Watcher":
        self._handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGIO, self._handler)

    def complete(self, new: Iterable[str]) -> list[str]:
        """Those of all new files that may be read now; `is_final` is to be asked of each then."""
        before, self._candidates = self._candidates, {}
        ready = []
        for name in new:
            state, now = _state(name), self._clock()
            if state is None:  # it went meanwhile
                continue
            candidate = before.get(name)
            if candidate is None or candidate.state != state:
                candidate = _Candidate(state, now, now + _SETTLE_SECONDS)
            elif now >= candidate.due and not is_open_for_writing(name):
                ready.append(name)
            self._candidates[name] = candidate
        return ready

    def is_final(self, name: str, is_decoded: bool) -> bool:
        """Whether what was read of a file is all of it; if not, it comes again."""
        candidate, now = self._candidates[name], self._clock()
        if _state(name) != candidate.state:
            return False
        if not is_decoded and now - candidate.since < _DAMAGED_SECONDS:
            candidate.due = now + _RETRY_SECONDS
            return False
        del self._candidates[name]
        return True


def compile_programs(annotator: Annotator) -> None:
    """Compiles the programs of all batch sizes, before a file waits for them."""
    for size in _BATCH_SIZES:
        list(annotator.rows([""] * size))


def watch(
    annotator: Annotator,
    list_new: Callable[[], list[str]],
    write: Callable[[Row], None],
    message: str,
) -> None:
    """Writes a row for each new file until the process gets SIGINT or SIGTERM.

    Args:
        annotator: Predicts.
        list_new: The files that have no row yet.
        write: Gets each row.
        message: Printed on stderr when it looks for files, and signals end it.
    """
    with contextlib.ExitStack() as stack:
        watcher = stack.enter_context(Watcher())
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, lambda *_: stop.set())
        print(message, file=sys.stderr, flush=True)
        while not stop.is_set():
            started = time.monotonic()
            for names in _batches(watcher.complete(list_new())):
                if stop.is_set():
                    break
                for row in annotator.rows(names):
                    if watcher.is_final(row["file"], "error" not in row):
                        write(row)
            # The walk over very many files takes no more than half of the time.
            stop.wait(max(_POLL_SECONDS, time.monotonic() - started))


def _batches(names: list[str]) -> Iterator[list[str]]:
    """The names in batches of the sizes for which there are programs."""
    large, small = _BATCH_SIZES
    whole = len(names) // large * large
    for first in range(0, whole, large):
        yield names[first : first + large]
    for first in range(whole, len(names), small):
        yield names[first : first + small]


def is_open_for_writing(name: str) -> bool:
    """Whether a process of this machine has a file open for writing; False where it cannot be told.

    Linux gives a lease for reading only on a file that nobody has open for writing.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:  # others: a file of somebody else, or a disk without leases
        return error.errno == errno.EAGAIN
    finally:
        os.close(file)
    return False


def _state(name: str) -> _State | None:
    try:
        status = os.stat(name)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
