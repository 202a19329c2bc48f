"""What every `python -m jaxtag.X` shares: flags, one clear line for a user's mistake, exit status.

Exit status: 0 success, 1 failure, 2 wrong use (see also `jaxtag.training.preemption` for the
status of a run that saved its state and wants to be started again).
"""

import ctypes
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging

from jaxtag.errors import UsageError, UserError


def run(main: Callable[[Sequence[str]], int | None], positional: bool = False) -> None:
    """Parses the command line with absl, calls `main(argv)`, and ends the process.

    Args:
      main: gets what is left of the command line after the flags (without the program's name);
        its result is the exit status, None being 0.
      positional: whether the command takes arguments that are not flags.
    """
    _keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's and grain's start-up chatter
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name need not be text of any encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    gc.freeze()  # collections need not look through all that was imported, again and again

    def parse(argv: Sequence[str]) -> list[str]:
        # What comes after `--` is no flag, whatever it looks like.
        end = argv.index("--") if "--" in argv else len(argv)
        argv, literal = argv[:end], argv[end:]
        # Imported here, so that commands without a configuration start quickly.
        if "config" in flags.FLAGS:
            from jaxtag.config.flags import prepare_arguments

            argv = prepare_arguments(argv)
        if any(arg in ("--help", "-help", "-h") for arg in argv[1:]):
            print(_help())
            sys.exit(0)
        try:
            return flags.FLAGS([*argv, *literal], known_only=False)
        except flags.Error as error:
            raise UsageError(f"{error} (see --help)") from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            if "config" in flags.FLAGS:  # what get_config of the chosen file made of its arguments
                raise UsageError(f"--config: {error}") from error
            raise

    def guarded(argv: Sequence[str]) -> int:
        # Orbax and tfds tell much; what a user should know is a warning, or printed.
        logging.set_verbosity(logging.WARNING if not logging.vlog_is_on(1) else logging.DEBUG)
        if argv[1:] and not positional:
            raise UsageError(f"unexpected argument: {argv[1]} (flags start with --; see --help)")
        return main(argv[1:]) or 0

    sys.exit(_one_line(lambda: app.run(guarded, flags_parser=lambda argv: parse(argv))))


def _keep_freed_memory() -> None:
    """Lets the C library use freed memory again instead of giving it back to the system.

    A training step on CPU takes and frees gigabytes, in pieces of hundreds of megabytes; pieces
    that come anew from the system are cleared page by page, up to 40 % of a step's time. For glibc
    alone, and of no use beside an accelerator. To be called before there are other threads.
    """
    accelerators = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(any(Path("/dev").glob(name)) for name in accelerators):
        return
    # As numbered in malloc.h: nothing outside of the heap, no trimming of its end, and one heap for
    # all threads, since that of another thread takes no large pieces.
    mmap_max, trim_threshold, arena_max = -4, -1, -8
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(arena_max, 1)


def _one_line(call: Callable[[], None]) -> int:
    """Runs `call`; a user's mistake becomes one message on stderr and its exit status."""
    try:
        call()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _help() -> str:
    """The command's docstring and its own flags (not those of absl and other libraries)."""
    module = sys.modules["__main__"]
    text = (module.__doc__ or "").strip()
    return f"{text}\n\nflags:\n{flags.FLAGS.module_help(module)}"
