"""Starts commands as forks of `fork_server.py`, with faults or kills, and compiles the shim."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

SECONDS = 300.0  # for a command to end, on a busy machine
KILL = -1  # as an error number of `Faults`: the call kills the process
_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that changes a file: its name ("write"), and the file."""

    name: str
    path: str

    @property
    def kind(self) -> str:
        """Call and path without what differs from run to run or file to file."""
        path = re.sub(r"[0-9a-f]{8,}", "H", self.path)
        return f"{self.name} {re.sub('[0-9]+', 'N', path)}"


@dataclasses.dataclass(frozen=True)
class Faults:
    """Which calls below the watched folder fail: from the `first` to the `last`, with an errno."""

    first: int
    last: int
    error: int


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the processes of a command ended.

    Attributes:
        statuses: exit status of each; minus the number of the signal that ended it.
        seconds: until the last one ended.
        timed_out: they had to be ended.
        out: what the first printed on stdout.
        err: what all printed on stderr.
        calls: of the first: what it changed below the watched folder; empty without the shim.
    """

    statuses: list[int]
    seconds: float
    timed_out: bool
    out: str
    err: str
    calls: list[Call]

    @property
    def status(self) -> int:
        return self.statuses[0]


class ForkServer:
    """A process that has imported jaxtag, and forks.

    Args:
        shim: `write_faults.so`, for `run` to count and fail calls.
        devices: CPU devices of each process.
    """

    def __init__(self, shim: Path | None = None, devices: int = 1):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_HERE), *sys.path]),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        if shim is not None:
            environment["LD_PRELOAD"] = str(shim)
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._answer()

    def run(
        self,
        *processes: Sequence[str],
        watched: Path,
        faults: Faults | None = None,
        kills: Mapping[int, float] | None = None,
        seconds: float = SECONDS,
    ) -> Ended:
        """Runs a command to its end, as one process or several at once.

        Args:
            processes: the command line of each, without `jaxtag`.
            watched: the folder whose changes are counted.
            faults: which of the changes fail.
            kills: process -> seconds after which SIGKILL ends it.
            seconds: after which what still runs is ended.
        """
        with tempfile.TemporaryDirectory(prefix="jaxtag-fork-") as folder:
            request: dict[str, Any] = {
                "argv": processes,
                "folder": folder,
                "watched": os.path.realpath(watched),
                "seconds": seconds,
                "kills": kills or {},
            }
            if faults is not None:
                request["faults"] = dataclasses.astuple(faults)
            assert self._process.stdin is not None
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._answer()
            errors = [_read(Path(folder, f"{index}.err")) for index in range(len(processes))]
            calls = [
                Call(name, path.removeprefix(request["watched"]))
                for _, name, path in (
                    line.split(" ", 2) for line in _read(Path(folder, "0.calls")).splitlines()
                )
            ]
            return Ended(
                **answer, out=_read(Path(folder, "0.out")), err="".join(errors), calls=calls
            )

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fork server has ended"
        return json.loads(line)


@functools.cache
def compiled_shim() -> Path:
    """The compiled write_faults.c; skips the test where there is no compiler, or no Linux."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, cc, and Linux")
    shim = Path(tempfile.mkdtemp(prefix="jaxtag-shim-")) / "write_faults.so"
    options = ["-shared", "-fPIC", "-O1", "-o", str(shim)]
    subprocess.run([compiler, *options, str(_HERE / "write_faults.c"), "-ldl"], check=True)
    return shim


@contextlib.contextmanager
def fork_server(*, shim: bool = True, devices: int = 1):
    """A server for the duration of the context."""
    server = ForkServer(compiled_shim() if shim else None, devices)
    try:
        yield server
    finally:
        server.close()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
