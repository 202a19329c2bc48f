"""On SIGTERM or Ctrl-C, save a checkpoint and exit with status 75 (restart me).

Schedulers send SIGTERM and kill some seconds later (30 on Kubernetes and on
preemptible TPU machines, `KillWait` on Slurm). The status is 75, `EX_TEMPFAIL` of BSD's
sysexits.h: "temporary failure, the user is invited to retry". No launcher gives it a meaning of
its own, and each can be configured to restart on it: Kubernetes and JobSet
(`podFailurePolicy … onExitCodes: values: [75]`), systemd (`RestartForceExitStatus=75`), a Slurm
script (`scontrol requeue`), `launch/local.sh --restarts`. 1 and 2 keep their meaning: a failure and
wrong use, which a restart does not mend.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

RESTART_STATUS = os.EX_TEMPFAIL  # 75


class Preemption:
    """Catches SIGTERM and the first Ctrl-C; a second Ctrl-C ends the process at once.

    Use it as a context around the training loop. In a thread other than the main one, where Python
    allows no signal handlers, it catches nothing.

        with Preemption() as preemption:
            for step in …:
                if preemption.requested(step):
                    checkpoints.save(…); checkpoints.wait()
                    sys.exit(RESTART_STATUS)

    With one process a signal sets a flag. With several, JAX's own handler of SIGTERM (installed by
    `jax.distributed.initialize`) notifies the others through the coordination service, and all
    agree on one step that none has passed; so SIGTERM is left to JAX and Ctrl-C becomes SIGTERM.
    """

    def __init__(self) -> None:
        self._flag = threading.Event()
        self._interrupted = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        numbers = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def requested(self, step: int) -> bool:
        """Whether to save and stop now; to be called at every step, on all processes alike."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._flag.is_set()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            # The default action, not KeyboardInterrupt: that one waits for background threads.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self._interrupted = self._interrupted or number == signal.SIGINT
        self._flag.set()
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)
