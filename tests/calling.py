"""A command as a user calls it, in this process: flags, exit status, what it prints."""

import contextlib
import dataclasses
import io
import json
import os
import runpy
import subprocess
import sys
from typing import Any
from unittest import mock

from absl import app, flags

app.define_help_flags()  # once in a process, as the flags that come with app


@dataclasses.dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def last(self) -> Any:
        """The last line on stdout, which is JSON."""
        return json.loads(self.out.splitlines()[-1])


def call(name: str, *arguments: object) -> Done:
    """`python -m jaxtag.NAME ARGUMENTS…` without the start of a process.

    An exception that the command lets through, which a user would see as a traceback, comes here.
    """
    module, argv = f"jaxtag.{name}", [name, *map(os.fspath, map(_plain, arguments))]
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return Done(ended.code or 0, out.getvalue(), err.getvalue())
    finally:
        _forget_flags(name)
    raise AssertionError(f"{module} did not end with an exit status")


def start(name: str, *arguments: object, **options: Any) -> Done:
    """The same in a process of its own."""
    command = [sys.executable, "-m", f"jaxtag.{name}", *map(os.fspath, map(_plain, arguments))]
    done = subprocess.run(command, capture_output=True, timeout=120, **options)
    out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
    return Done(done.returncode, out, err)


def _forget_flags(name: str) -> None:
    """The next command defines flags of the same names."""
    for flag in list(flags.FLAGS):
        place = flags.FLAGS.find_module_defining_flag(flag)
        if flag.split(".")[0] == "config" or str(place).endswith(f"jaxtag/{name}.py"):
            delattr(flags.FLAGS, flag)


def _plain(argument: object) -> Any:
    return argument if isinstance(argument, os.PathLike) else str(argument)
