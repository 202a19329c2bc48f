"""Exits this process when a peer fails or no step completes within the timeout.

It watches a single process too: for a hang, in a read or in a lock, and above all for one that was
told to stop and does not.

JAX ends all processes when the heartbeat of one stops (`initialize._HEARTBEAT_SECONDS`). It does
not when a process lives but hangs, in a read of a network file system or in a collective that
another process never enters; and where one process fails over a user's mistake, the others would
exit with the status that asks for a restart. A thread polls the coordination service once a second
for the failure of a peer, and compares the clock with the deadline that the main thread last set.
"""

import faulthandler
import functools
import json
import multiprocessing
import os
import sys
import threading
import time
from typing import Any, NoReturn

import jax

from jaxtag.distributed import coordination
from jaxtag.errors import ProcessLostError

_FAILURE_KEY = "jaxtag/failed"
_POLL_SECONDS = 1.0
_ASLEEP_SECONDS = 5.0  # between two polls that are a second apart
_NOTICE_SECONDS = 2.5  # in which all peers have polled


class Watchdog:
    """The thread that watches, from `start` to `stop`, and its deadline."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._alone = False
        self._deadline: tuple[float, float] | None = None  # (monotonic time, seconds promised)
        self._thread: threading.Thread | None = None

    def start(self, alone: bool = False) -> None:
        """Starts to watch, for failures of peers too unless it is `alone`, without a deadline."""
        self.stop()
        self._deadline = None
        self._watch_in_thread(alone)

    def hurry(self, seconds: float) -> bool:
        """Ends the process unless it reports progress within `seconds`.

        Returns:
            Whether this has started to watch; call `stop` then.
        """
        deadline = (time.monotonic() + seconds, seconds)
        starts = self._thread is None
        if starts:
            self._deadline = None  # what was promised while nobody watched
            self._watch_in_thread(jax.process_count() == 1)
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        return starts

    def _watch_in_thread(self, alone: bool) -> None:
        self._alone = alone
        self._stopped.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops watching; does nothing if it does not watch."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def expect(self, seconds: float | None) -> None:
        """Sets the deadline: the next call within `seconds`, or the process exits; None: never."""
        self._deadline = None if seconds is None else (time.monotonic() + seconds, seconds)

    def _watch(self) -> None:
        polled = time.monotonic()
        while not self._stopped.wait(_POLL_SECONDS):
            now = time.monotonic()
            asleep, polled = now - polled - _POLL_SECONDS, now
            if (deadline := self._deadline) is not None and asleep > _ASLEEP_SECONDS:
                # The whole process stood still (SIGSTOP, a suspended machine).
                self._deadline = (deadline[0] + asleep, deadline[1])
            if not self._alone and (failure := _first_failure()) is not None:
                if jax.process_index() == 0:
                    _linger()
                exit_now(failure["status"], _description(failure))
            deadline = self._deadline
            if deadline is not None and now > deadline[0]:
                _exit_hanging(deadline[1], self._alone)


@functools.cache
def current() -> Watchdog:
    """This process's watchdog; it watches while a command runs (see `job.join`)."""
    return Watchdog()


def expect(seconds: float | None) -> None:
    """Reports progress to the current watchdog; see `Watchdog.expect`."""
    current().expect(seconds)


def announce(status: int, message: str) -> tuple[int, str]:
    """Tells the peers that this process fails, for them to exit with the same status.

    Returns:
        (status, message) to exit with: a peer's status if that one failed first, and then the
        messages of both.
    """
    own = {"status": status, "message": message, "process": jax.process_index()}
    try:
        coordination.service_client().key_value_set(_FAILURE_KEY, json.dumps(own))
    except jax.errors.JaxRuntimeError:  # a peer has set it, or the coordinator is gone
        if (first := _first_failure()) is not None:
            status = first["status"]
            message = f"{_description(first)}\nand this one, process {own['process']}: {message}"
    _linger()
    return status, message


def exit_now(status: int, message: str) -> NoReturn:
    """Exits at once, whatever the threads of this process do, and kills its workers."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()
    sys.stdout.flush()
    os._exit(status)


def _exit_hanging(seconds: float, alone: bool) -> NoReturn:
    who = "this process hangs" if alone else "this process or another one hangs"
    message = f"nothing has moved for {seconds:g} s: {who} (limit: config.hang_timeout)"
    if not alone:
        announce(ProcessLostError.exit_status, message)
    faulthandler.dump_traceback(sys.stderr)
    exit_now(ProcessLostError.exit_status, message)


def _linger() -> None:
    """Waits until the peers have polled.

    Process 0 waits until they have exited: JAX aborts them when the coordinator goes first.
    """
    time.sleep(_NOTICE_SECONDS * (2 if jax.process_index() == 0 else 1))


def _first_failure() -> dict[str, Any] | None:
    """What the first process to fail announced, or None."""
    try:
        return json.loads(coordination.service_client().key_value_try_get(_FAILURE_KEY))
    except jax.errors.JaxRuntimeError:
        return None


def _description(failure: dict[str, Any]) -> str:
    return f"process {failure['process']} failed: {failure['message']}"
