"""A job of two processes that ends as its first argument says.

    python ending_job.py HOW FLAGS

HOW: done, fails (process 1, over a user's mistake), breaks (process 1, over a bug), exits (process
1, with status 3), both (each fails, and neither is watched), mistake (process 0, while the other
waits for its answer), hangs (both; process 0 had promised to go on), lost (process 0, killed).
"""

import faulthandler
import os
import signal
import sys
import time

from absl import flags

from jaxtag import cli
from jaxtag.errors import UsageError, UserError


def main(how: str) -> int:
    with cli.join_job():
        import jax

        from jaxtag.distributed import coordination, watchdog

        def answer() -> int:
            if how == "mistake":
                raise UsageError("config.steps = -1")
            return 7

        assert coordination.run_on_process_zero(answer) == 7
        coordination.barrier("here")
        if jax.process_index() == 1 and how == "fails":
            raise UserError("the disk is full")
        if jax.process_index() == 1 and how == "breaks":
            raise KeyError("a bug")
        if jax.process_index() == 1 and how == "exits":
            sys.exit(3)
        if how == "both":
            watchdog.current().stop()  # or it may end one before that one has failed
            raise UserError(f"disk {jax.process_index()} is full")
        if jax.process_index() == 0 and how == "hangs":
            watchdog.expect(1.0)
        if jax.process_index() == 0 and how == "lost":
            os.kill(os.getpid(), signal.SIGKILL)
        if how != "done":
            time.sleep(120)
    return 0


if __name__ == "__main__":
    cli.define_process_flags()
    faulthandler.enable()  # as absl.app.run does
    _, how = flags.FLAGS(sys.argv)
    sys.exit(main(how))
