"""A thread that ends this process when the job cannot go on: another failed, or nothing moves.

JAX ends all processes when one stops to give a sign of life (`startup.HEARTBEAT_SECONDS`). It does
not when a process lives but hangs, in a read of a network file system or in a collective that
another never enters; and where one process fails over a user's mistake, the others would end with
a status that asks to be started again. The thread asks the coordinator once a second whether
somebody failed, and compares the clock with the time by which the main thread promised to go on.
"""

import faulthandler
import json
import multiprocessing
import os
import sys
import threading
import time

import jax
from jax._src import distributed

from jaxtag.errors import ProcessLostError

_FAILED = "jaxtag/failed"
_EVERY_SECONDS = 1.0
_HEARD_SECONDS = 2.5  # until all others have asked


class Watchdog:
    """Watches from `start` to `stop`; one for a process."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._deadline: tuple[float, float] | None = None  # (monotonic time, seconds promised)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins to ask whether another process failed."""
        self._thread.start()

    def stop(self) -> None:
        """From here on the process ends by itself."""
        self._stopped.set()
        self._thread.join()

    def expect(self, seconds: float | None) -> None:
        """The next call comes within `seconds`, or the process ends; None: whenever it comes."""
        self._deadline = None if seconds is None else (time.monotonic() + seconds, seconds)

    def _watch(self) -> None:
        while not self._stopped.wait(_EVERY_SECONDS):
            if (failed := _told()) is not None:
                if jax.process_index() == 0:
                    _linger()
                end(failed["status"], f"process {failed['process']} failed: {failed['message']}")
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline[0]:
                self._stuck(deadline[1])

    def _stuck(self, seconds: float) -> None:
        message = (
            f"nothing has moved for {seconds:g} s: this process or another one hangs "
            "(limit: config.hang_timeout)"
        )
        announce(ProcessLostError.exit_status, message)
        faulthandler.dump_traceback(sys.stderr)
        end(ProcessLostError.exit_status, message)


_current: Watchdog | None = None


def start() -> None:
    """Watches this process of several."""
    global _current
    _current = Watchdog()
    _current.start()


def stop() -> None:
    """Ends the watch, where there is one."""
    global _current
    if _current is not None:
        _current.stop()
        _current = None


def expect(seconds: float | None) -> None:
    """Something moved, and the next call comes within `seconds`; see `Watchdog.expect`."""
    if _current is not None:
        _current.expect(seconds)


def announce(status: int, message: str) -> tuple[int, str]:
    """Tells the others that this process fails, for them to end with the same status.

    Returns:
      (status, message) to end with: another's status where that one failed first, and the
      messages of both.
    """
    own = {"status": status, "message": message, "process": jax.process_index()}
    try:
        distributed.global_state.client.key_value_set(_FAILED, json.dumps(own))
    except jax.errors.JaxRuntimeError:  # it is set already, or the coordinator is gone
        if (first := _told()) is not None:
            status = first["status"]
            theirs = f"process {first['process']} failed: {first['message']}"
            message = f"{theirs}\nand this one, process {own['process']}: {message}"
    _linger()
    return status, message


def _linger() -> None:
    """Until others have heard; on process 0, without which JAX aborts them, until they are gone."""
    time.sleep(_HEARD_SECONDS * (2 if jax.process_index() == 0 else 1))


def end(status: int, message: str) -> None:
    """Ends this process and its workers at once, whatever its threads do."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()
    sys.stdout.flush()
    os._exit(status)


def _told() -> dict | None:
    """Who failed first, if anybody did."""
    try:
        return json.loads(distributed.global_state.client.key_value_try_get(_FAILED))
    except jax.errors.JaxRuntimeError:
        return None
