"""Which of the new files of a folder are written to the end."""

import dataclasses
import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

POLL_SECONDS = 1.0
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
