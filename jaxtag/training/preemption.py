"""On SIGTERM, SIGHUP or Ctrl-C, save a checkpoint and exit with status 75 (restart me).

Schedulers send SIGTERM and kill some seconds later (30 on Kubernetes and on
preemptible TPU machines, `KillWait` on Slurm); a terminal that closes sends SIGHUP. The status is
75, `EX_TEMPFAIL` of BSD's sysexits.h: "temporary failure, the user is invited to retry". No
launcher gives it a meaning of its own, and each can be configured to restart on it: Kubernetes and
JobSet (`podFailurePolicy … onExitCodes: values: [75]`), systemd (`RestartForceExitStatus=75`), a
Slurm script (`scontrol requeue`), `launch/local.sh --restarts`. The other statuses are
`jaxtag.errors.exit_status`.
"""

import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxtag.distributed import watchdog

RESTART_STATUS = os.EX_TEMPFAIL  # 75

# Launchers and terminals send a signal to a process and to its group: within this time, once.
_ONE_REQUEST_SECONDS = 1.0
_calls = itertools.count()  # of `requested`; JAX wants them to grow over a process's life
_SAVING_SECONDS = 300.0  # until a step has ended, where the caller names no limit


class StopRequested(Exception):
    """The run was told to stop; raised by `Preemption.check`."""


class Preemption:
    """Catches SIGTERM, SIGHUP and the first Ctrl-C; the second of them ends the process at once.

    Use it as a context around the training loop. In a thread other than the main one, where Python
    allows no signal handlers, it catches nothing. SIGHUP that is ignored (nohup) stays ignored.

        with Preemption() as preemption:
            for step in …:
                if preemption.requested(step):
                    checkpoints.save(…); checkpoints.wait()
                    sys.exit(RESTART_STATUS)

    With one process a signal sets a flag. A thread reads the signals as well, through Python's
    wakeup descriptor: it ends a process whose main thread is stuck, where no handler runs, when it
    is told again, or when it reports no progress to the watchdog for `seconds`.

    With several processes, JAX's own handler of SIGTERM (installed by `jax.distributed.initialize`)
    notifies the others through the coordination service, and all agree on one step that none has
    passed; so SIGTERM is left to JAX, and Ctrl-C and SIGHUP become SIGTERM.

    Args:
        seconds: in which a process that was told to stop must make progress.
    """

    def __init__(self, seconds: float = _SAVING_SECONDS) -> None:
        self._seconds = seconds
        self._flag = threading.Event()
        self._agreed = False  # all processes stop at the same call of `requested`
        self._interrupted = False
        self._previous: dict[int, Any] = {}
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._listener: threading.Thread | None = None
        self._previous_wakeup = -1
        self._watches = False

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is not threading.main_thread():
            return self
        numbers = [signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        if jax.process_count() == 1:
            numbers.append(signal.SIGTERM)
            self._listen()
        for number in numbers:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        if self._wakeup is not None:
            signal.set_wakeup_fd(self._previous_wakeup)
            reader, writer = self._wakeup
            writer.close()  # the listener reads the end
            assert self._listener is not None
            self._listener.join()
            reader.close()
            self._wakeup = None
        if self._watches:
            watchdog.current().stop()
            self._watches = False

    def requested(self, step: int) -> bool:
        """Whether to save and stop now; to be called on every process, equally often.

        Args:
            step: Of the run, for the log.
        """
        if jax.process_count() == 1:
            return self._flag.is_set()
        # JAX agrees on the first call that no process has made yet.
        if not self._agreed and multihost_utils.reached_preemption_sync_point(next(_calls)):
            self._agreed = True
            if jax.process_index() == 0:
                _tell(f"told to stop: all processes stop at step {step}")
        return self._agreed

    def check(self, step: int) -> None:
        """Raises StopRequested where the run was told to stop; see `requested`."""
        if self.requested(step):
            raise StopRequested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            # The default action, not KeyboardInterrupt: that one waits for background threads.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self._interrupted = self._interrupted or number == signal.SIGINT
        self._flag.set()
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)

    def _listen(self) -> None:
        """Has the C level write each signal's number to a socket, whatever Python is doing."""
        reader, writer = self._wakeup = socket.socketpair()
        writer.setblocking(False)
        self._previous_wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._listener = threading.Thread(
            target=self._follow, args=(reader,), name="signals", daemon=True
        )
        self._listener.start()

    def _follow(self, reader: socket.socket) -> None:
        first: dict[int, float] = {}
        while numbers := reader.recv(64):
            for number in numbers:
                if number not in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    continue
                now, name = time.monotonic(), signal.Signals(number).name
                if number not in first:
                    first[number] = now
                    if len(first) == 1:
                        _tell(f"{name}: saves and stops at the next step; a second ends at once")
                        self._watches = watchdog.current().hurry(self._seconds)
                    continue
                if number == signal.SIGINT:
                    time.sleep(_ONE_REQUEST_SECONDS)  # in which the handler ends the process
                elif now - first[number] <= _ONE_REQUEST_SECONDS:
                    continue
                watchdog.exit_now(
                    128 + number,
                    f"{name} for the second time: ends without saving; the same command goes on "
                    "from the last checkpoint",
                )


def _tell(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
        print(text, file=sys.stderr, flush=True)
