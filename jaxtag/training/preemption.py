"""A run that is told to stop saves first, and its exit status says that it wants to go on.

Schedulers announce the end with SIGTERM and kill some seconds later (30 on Kubernetes and on
preemptible TPU machines, `KillWait` on Slurm). The status is 75, `EX_TEMPFAIL` of BSD's
sysexits.h: "temporary failure, the user is invited to retry". No launcher gives it a meaning of
its own, and each can be told to start again on it: Kubernetes and JobSet
(`podFailurePolicy … onExitCodes: values: [75]`), systemd (`RestartForceExitStatus=75`), a Slurm
script (`scontrol requeue`), `launch/local.sh --restarts`. 1 and 2 stay what they are: a failure and
wrong use, which starting again does not mend.
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
    """Notices SIGTERM and the first Ctrl-C; a second Ctrl-C ends the process at once.

    Use as a context around the training loop, in the main thread:

        with Preemption() as preemption:
            for step in …:
                if preemption.requested(step):
                    checkpoints.save(…); checkpoints.wait()
                    sys.exit(RESTART_STATUS)

    With one process a signal sets a flag. With several, JAX's own handler of SIGTERM (installed by
    `jax.distributed.initialize`) tells the others through the coordination service, and all agree
    on one step that none has passed; so SIGTERM is left to JAX there and Ctrl-C becomes SIGTERM.
    """

    def __init__(self) -> None:
        self._flag = threading.Event()
        self._interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        taken = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        for number in taken:
            self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def requested(self, step: int) -> bool:
        """Whether to save and stop now. Every process must ask at every step, with equal steps."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._flag.is_set()

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            # The default action, not KeyboardInterrupt: that one waits for background threads.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self._interrupted = self._interrupted or number == signal.SIGINT
        self._flag.set()
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)
