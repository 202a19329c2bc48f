"""What all commands share: flags, subcommands, one line for a user's mistake, exit status.

A command is a module of three functions:

    def define_flags() -> None: ...              # absl flags, with the helpers below
    def main(argv: list[str]) -> int | None: ...  # reads flags.FLAGS; argv: positional arguments
    def run() -> None: cli.run(main, define_flags)

`python -m jaxtag.X` and `jaxtag X` both call `run`. Only `run` defines flags and sets up the
process, so importing a command changes nothing, and several can be run in one process.

Exit status: 0 success, 1 a user's mistake or a deterministic failure, 2 wrong use, 70 unexpected
(starting again may mend it), 75 saved and wants to go on; see `errors.exit_status`.
"""

import contextlib
import ctypes
import gc
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags, logging
from absl.testing import flagsaver

from jaxtag.errors import UsageError, UserError, did_you_mean, exit_status, printable
from jaxtag.storage import store_errors

if TYPE_CHECKING:
    from jaxtag.config.schema import Config

_HELP_FLAGS = ("--help", "-help", "-h")


def run(
    main: Callable[[list[str]], int | None],
    define_flags: Callable[[], None],
    *,
    positional: bool = False,
    subcommands: Sequence[str] = (),
    subcommand_required: bool = True,
) -> NoReturn:
    """Parses the command line, calls `main(argv)`, and ends the process.

    Flags and positional arguments may be mixed; what comes after `--` is never a flag.

    Args:
        main: Gets the positional arguments (without the program's name); returns the exit status,
            None being 0. Its module's docstring is the text of --help.
        define_flags: Defines the command's flags on `absl.flags.FLAGS`. They are removed again, and
            the others restored, before `run` raises SystemExit.
        positional: Whether the command takes positional arguments (beside a subcommand).
        subcommands: If given, the first positional argument must be one of these.
        subcommand_required: Whether the subcommand may not be left out.
    """
    _set_up_process()
    app.define_help_flags()  # before the snapshot: absl defines them once a process
    with _defined(define_flags) as own:

        def parse(argv: list[str]) -> list[str]:
            return _parse(argv, lambda: _help(main, own))

        def checked(argv: list[str]) -> int:
            # Orbax and tfds log every step; users need warnings only.
            logging.set_verbosity(logging.DEBUG if logging.vlog_is_on(1) else logging.WARNING)
            arguments = argv[1:]
            if subcommands:
                _check_subcommand(_name(main), arguments, subcommands, subcommand_required)
            unexpected = [] if positional else arguments[1 if subcommands else 0 :]
            if unexpected:
                raise UsageError(
                    f"unexpected argument: {unexpected[0]} (flags start with --; see --help)"
                )
            return main(arguments) or 0

        status = _exit_status(lambda: app.run(checked, flags_parser=parse))
    sys.exit(status)


@contextlib.contextmanager
def _defined(define_flags: Callable[[], None]) -> Iterator[list[str]]:
    """Defines a command's flags, gives their names, and restores all flags afterwards.

    Flags of libraries that are first imported in between stay: their modules, which remain, read
    them (grain's do).
    """
    before = flagsaver.save_flag_values()
    define_flags()
    own = [name for name in flags.FLAGS if name not in before]
    try:
        yield own
    finally:
        states = flagsaver.save_flag_values()
        # A flag's overrides (--config.FIELD), which its parsing defines, go with it.
        others = {n: state for n, state in states.items() if n.partition(".")[0] not in own}
        flagsaver.restore_flag_values({**others, **before})


def define_alias(old: str, name: str) -> None:
    """Defines `old` as another name of the flag `name`; --help does not list it."""
    flags.DEFINE_alias(old, name)


def define_optional_value(name: str, default: str, text: str) -> None:
    """Defines a flag that stands alone for its default value, `--NAME`, or has one, `--NAME=VALUE`.

    Without it, and with `--noNAME`, its value is None.
    """
    flags.DEFINE_flag(_OptionalValueFlag(_OptionalValueParser(default), name, text))


class _OptionalValueParser(flags.ArgumentParser[str | None]):
    def __init__(self, default: str):
        super().__init__()
        self._default = default

    def parse(self, argument: str) -> str | None:
        return {"true": self._default, "false": None}.get(argument, argument)


class _OptionalValueFlag(flags.Flag[str | None]):
    def __init__(self, parser: _OptionalValueParser, name: str, text: str):
        super().__init__(parser, None, name, None, text, boolean=True)


def require(name: str, hint: str) -> None:
    """Raises UsageError with `hint` unless the flag `name` was given."""
    if not flags.FLAGS[name].value:
        raise UsageError(f"--{name} is missing{hint}")


def required_config() -> "Config":
    """Returns the validated configuration of --config. Raises UsageError if it was not given."""
    from jaxtag.config import checks
    from jaxtag.config import flags as config_flags

    if flags.FLAGS.config is None:
        raise UsageError(f"--config is missing (there are: {', '.join(config_flags.names())})")
    return checks.check(flags.FLAGS.config)


_FEATURE_FLAGS = ("workdir", "step", "model", "weights", "pixels", "image_size", "whole_image")


def define_feature_flags() -> None:
    """Defines the flags that say how images become vectors."""
    flags.DEFINE_string("workdir", None, "Extract features with a run of jaxtag.train.")
    flags.DEFINE_string("step", "newest", "Checkpoint of the run: newest, best, or its step.")
    flags.DEFINE_string(
        "model", None, "Extract features with a backbone of jaxtag.models.list_models()."
    )
    flags.DEFINE_string("weights", None, "Weights of --model, safetensors of any library.")
    flags.DEFINE_integer("pixels", None, "Use the image's pixels, resized to N x N, as features.")
    flags.DEFINE_integer(
        "image_size", None, "Pixels at which --model sees images; by default its own.", 1
    )
    flags.DEFINE_bool(
        "whole_image", False, "Squash images to the square that --model sees; do not crop them."
    )


def feature_flags() -> dict[str, Any]:
    """The values of `define_feature_flags`, for `features.from_flags`."""
    return {name: flags.FLAGS[name].value for name in _FEATURE_FLAGS}


def define_process_flags() -> None:
    """Defines the flags that make a command one process of a job, named as JAX names them.

        --coordinator_address=HOST:PORT --num_processes=4 --process_id=0

    On Cloud TPU pods, in a JobSet on GKE's TPUs, under Slurm's srun and Open MPI's mpirun all of
    them are detected. The names are those of the arguments of `jax.distributed.initialize`.
    """
    flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0 of the job.")
    flags.DEFINE_integer("num_processes", None, "Processes of the job; detected on clusters.")
    flags.DEFINE_integer("process_id", None, "Index of this process, starting at 0.")
    flags.DEFINE_integer(
        "initialization_timeout",
        None,
        "Seconds to wait for the other processes; by default 1800 on a cluster, 300 elsewhere.",
    )
    define_alias("start_timeout", "initialization_timeout")


def join_job() -> contextlib.AbstractContextManager[None]:
    """A context in which this process takes part in the job of its flags; see `job.join`."""
    # Imported here, so that commands that score files start quickly.
    from jaxtag.distributed import initialize, job

    seconds = flags.FLAGS.initialization_timeout
    process = initialize.detect_cluster(
        flags.FLAGS.coordinator_address, flags.FLAGS.num_processes, flags.FLAGS.process_id, seconds
    )
    return job.join(process, seconds)


def _set_up_process() -> None:
    _keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # silences XLA's and grain's start-up logs
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be valid in any encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    gc.freeze()  # collections need not walk all that was imported, again and again


def _parse(argv: list[str], help_text: Callable[[], str]) -> list[str]:
    """Parses the flags of `argv`; returns the program's name and the positional arguments."""
    end = argv.index("--") if "--" in argv else len(argv)
    argv, literal = argv[:end], argv[end:]
    # Imported here, so that commands without a configuration start quickly.
    if "config" in flags.FLAGS:
        from jaxtag.config.flags import prepare_arguments

        argv = prepare_arguments(argv)
    if any(arg in _HELP_FLAGS for arg in argv[1:]):
        print(help_text())
        sys.exit(0)
    try:
        return flags.FLAGS([*argv, *literal], known_only=False)
    except flags.Error as error:
        raise UsageError(f"{error} (see --help)") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if "config" in flags.FLAGS:  # raised by get_config of the chosen file
            raise UsageError(f"--config: {error}") from error
        raise


def _check_subcommand(
    name: str, arguments: list[str], subcommands: Sequence[str], required: bool
) -> None:
    usage = f"usage: {name} {'|'.join(subcommands)} … (see --help)"
    if not arguments and required:
        raise UsageError(usage)
    if arguments and arguments[0] not in subcommands:
        hint = did_you_mean(arguments[0], subcommands)
        raise UsageError(f"{usage}; unknown subcommand {arguments[0]!r}{hint}")


def _exit_status(call: Callable[[], None]) -> int:
    """Runs `call`; an exception becomes one message or a traceback on stderr, and its exit status.

    SystemExit, with which absl ends, passes.
    """
    try:
        call()
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return exit_status(error)
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return exit_status(error)
    except Exception as error:
        if (failure := store_errors.unexpected_error(error)) is not None:
            print(f"error: {printable(str(failure))}", file=sys.stderr)
            return exit_status(failure)
        traceback.print_exc()
        return exit_status(error)
    return 0


def _help(main: Callable[[list[str]], int | None], names: list[str]) -> str:
    """The command's docstring and its own flags (not those of absl and other libraries)."""
    own = flags.FlagValues()
    for name in names:
        if not flags.FLAGS[name].help.startswith("Alias for --"):
            own[name] = flags.FLAGS[name]
            own.register_key_flag_for_module("flags", flags.FLAGS[name])
    text = (main.__globals__["__doc__"] or "").strip()
    return f"{text}\n{own.module_help('flags')}"  # the module's name is the heading


def _name(main: Callable[[list[str]], int | None]) -> str:
    """The command's module, such as jaxtag.train, however it was started."""
    return main.__globals__["__spec__"].name.removesuffix(".__main__")


def _keep_freed_memory() -> None:
    """Lets the C library use freed memory again instead of giving it back to the system.

    A training step on CPU allocates and frees gigabytes, in blocks of hundreds of megabytes; the
    kernel clears each new block page by page, which takes up to 40 % of a step's time. Affects
    glibc only, and is of no use beside an accelerator. To be called before other threads start.
    """
    accelerators = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(any(Path("/dev").glob(name)) for name in accelerators):
        return
    # As numbered in malloc.h: no mmap, no trimming of the heap's end, and one arena for all
    # threads, since the arenas of other threads take no large blocks.
    mmap_max, trim_threshold, arena_max = -4, -1, -8
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(arena_max, 1)
