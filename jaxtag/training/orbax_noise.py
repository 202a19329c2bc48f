"""Silences what Orbax and TensorStore print when a save fails, beside the error that they raise.

On a full disk that is hundreds of lines: Orbax logs the error of each of its threads, asyncio that
of each task that nobody awaited, and TensorStore's threads call into an event loop that is closed.
The error itself reaches the user in one line (see `Checkpoints.check`).
"""

import functools
import logging
import sys

from absl import logging as absl_logging


@functools.cache
def suppress() -> None:
    """Drops these records and tracebacks, and no others, for as long as the process lives.

    The last of them come when its garbage is collected.
    """
    absl_logging.get_absl_logger().addFilter(_is_not_orbax_failure)
    logging.getLogger("asyncio").addFilter(_is_not_orbax_task)
    previous = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            previous(unraisable)

    sys.unraisablehook = hook


def _is_not_orbax_failure(record: logging.LogRecord) -> bool:
    return not (record.levelno >= logging.ERROR and "/orbax/checkpoint/" in record.pathname)


def _is_not_orbax_task(record: logging.LogRecord) -> bool:
    return "/orbax/checkpoint/" not in record.getMessage()
