"""A command as a user calls it, in this process: flags, exit status, what it prints."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from typing import Any
from unittest import mock

from jaxtag import __main__


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
    """`jaxtag NAME ARGUMENTS…` without the start of a process.

    An exception that nobody foresaw is status 70, and its traceback in `err`.
    """
    argv = ["jaxtag", name, *map(os.fspath, map(_plain, arguments))]
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            __main__.main()
    except SystemExit as ended:
        return Done(ended.code or 0, out.getvalue(), err.getvalue())
    raise AssertionError(f"jaxtag {name} did not end with an exit status")


def start(name: str, *arguments: object, **options: Any) -> Done:
    """`python -m jaxtag.NAME ARGUMENTS…`, in a process of its own."""
    command = [sys.executable, "-m", f"jaxtag.{name}", *map(os.fspath, map(_plain, arguments))]
    done = subprocess.run(command, capture_output=True, timeout=120, **options)
    out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
    return Done(done.returncode, out, err)


def _plain(argument: object) -> Any:
    return argument if isinstance(argument, os.PathLike) else str(argument)
