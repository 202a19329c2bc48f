"""Joins a job of several processes, and ends it as a whole when one process fails."""

import contextlib
import sys
import traceback
from collections.abc import Iterator

import jax

from jaxtag.distributed import coordination, initialize, watchdog
from jaxtag.errors import UserError, exit_status

_END_SECONDS = 3600  # for process 0 to finish what the others leave to it
# Words in the errors of a collective whose peer is gone (Gloo, NCCL, JAX's coordination service).
_LOST = ("gloo", "nccl", "connection", "unavailable", "deadline_exceeded", "aborted", "heartbeat")


@contextlib.contextmanager
def join(
    process: initialize.ProcessInfo | None, initialization_timeout: int | None = None
) -> Iterator[None]:
    """Connects this process to its job for the duration of the context.

    Leaving the context normally waits for all processes. Leaving it with an exception tells the
    other processes, which exit with the same status, and exits this process.

    Args:
        process: As `initialize.detect_cluster` returns it; None, a single process, only watches
            itself for hangs.
        initialization_timeout: Seconds to wait for the other processes; see `initialize`.
    """
    if process is None:
        watchdog.current().start(alone=True)
        try:
            yield
        finally:
            watchdog.current().stop()
        return
    if table := initialize.initialize(process, initialization_timeout):
        print(table, file=sys.stderr)
    watchdog.current().start()
    try:
        yield
        watchdog.expect(None)
        coordination.barrier("end", _END_SECONDS)
    except BaseException as error:
        status, message = _status_and_message(error)
        watchdog.current().stop()
        watchdog.exit_now(*watchdog.announce(status, message))
    watchdog.current().stop()


def _status_and_message(error: BaseException) -> tuple[int, str]:
    """(exit status, message) of a failure in a job of several processes."""
    status = exit_status(error) or 1  # SystemExit(0) leaves the others waiting
    if isinstance(error, UserError):
        return status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return status, "interrupted"
    trace, text = "".join(traceback.format_exception(error)), str(error)
    if isinstance(error, jax.errors.JaxRuntimeError) and any(x in text.lower() for x in _LOST):
        # With its trace: other failures of XLA may contain such a word too.
        return status, f"another process is lost: {text.splitlines()[0]}\n{trace}"
    return status, trace
