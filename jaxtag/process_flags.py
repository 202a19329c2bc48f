"""The flags that make a command one of several processes, and how all end when one fails.

    --coordinator_address=HOST:PORT --num_processes=4 --process_id=0

On Cloud TPU pods, in a JobSet on GKE's TPUs, under Slurm's srun and Open MPI's mpirun they are
found automatically, and none need be given. The names are those of `jax.distributed.initialize`.
"""

import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Iterator

from absl import flags

from jaxtag.errors import ProcessLostError, UserError

flags.disclaim_key_flags()  # they belong to the command that calls `define`, and to its --help
_END_SECONDS = 3600  # for process 0 to finish what the others leave to it
# What a collective says whose other side is gone (Gloo, NCCL, JAX's coordination service).
_LOST = ("gloo", "nccl", "connection", "unavailable", "deadline_exceeded", "aborted", "heartbeat")


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags, once parsed."""

    coordinator: flags.FlagHolder
    count: flags.FlagHolder
    index: flags.FlagHolder
    seconds: flags.FlagHolder

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Within it this is a process of the job, if there are several.

        Leaving it normally waits for all. Leaving it with an exception tells the others, which end
        with the same status, and ends this process.
        """
        # Imported here, so that commands that score files start quickly.
        from jaxtag.distributed import coordination, initialize, watchdog

        place = initialize.detect_cluster(
            self.coordinator.value, self.count.value, self.index.value
        )
        if place is None:
            yield
            return
        if table := initialize.initialize(place, self.seconds.value):
            print(table, file=sys.stderr)
        watchdog.start()
        try:
            yield
            watchdog.expect(None)
            coordination.barrier("end", _END_SECONDS)
        except BaseException as error:
            status, message = _meaning(error)
            watchdog.stop()
            watchdog.end(*watchdog.announce(status, message))
        watchdog.stop()


def define() -> Flags:
    """Defines the flags, for a command that trains or evaluates."""
    return Flags(
        flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, of several."),
        flags.DEFINE_integer("num_processes", None, "Processes of the job; found on clusters."),
        flags.DEFINE_integer("process_id", None, "Which of them this is, from 0."),
        flags.DEFINE_integer("start_timeout", 300, "Seconds to wait for the other processes."),
    )


def _meaning(error: BaseException) -> tuple[int, str]:
    """(exit status, what to say) of a failure in a job of several processes."""
    import jax

    if isinstance(error, UserError):
        return error.exit_status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    whole, text = "".join(traceback.format_exception(error)), str(error)
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code:
        return error.code, whole
    if isinstance(error, jax.errors.JaxRuntimeError) and any(x in text.lower() for x in _LOST):
        # Whole: other failures of XLA may have such a word in them too.
        return (
            ProcessLostError.exit_status,
            f"another process is lost: {text.splitlines()[0]}\n{whole}",
        )
    return 1, whole
