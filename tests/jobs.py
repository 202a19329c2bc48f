"""Starts several processes of one command on this machine, which share 4 CPU devices."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

DEVICES = 4
SECONDS = 240  # for a job to end, on a busy machine


@dataclasses.dataclass
class Job:
    """Processes that were started together; each has a process group, with its workers.

    Attributes:
        processes: The processes, by process_id.
        errors: What each printed on stderr; set by `wait`.
    """

    processes: list[subprocess.Popen[str]]
    errors: list[str] = dataclasses.field(default_factory=list)

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """Returns the exit statuses and sets `errors`."""
        try:
            self.errors = [process.communicate(timeout=seconds)[1] for process in self.processes]
        finally:
            self.kill(*range(len(self.processes)))
        return [process.returncode for process in self.processes]

    def kill(self, *indices: int, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the groups of some processes."""
        for index in indices:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.processes[index].pid, number)

    def until(self, index: int, text: str) -> None:
        """Reads stderr of a process until a line contains `text`, or the process ends."""
        stderr = self.processes[index].stderr
        assert stderr is not None
        for line in stderr:
            if text in line:
                return


def start(name: str, *arguments: object, processes: int = 2, devices: int = DEVICES) -> Job:
    """Starts `python -m jaxtag.NAME ARGUMENTS…` as `processes` processes.

    Args:
        name: The command; a name that ends with .py is a program, which gets the flags too.
        arguments: Its command line.
        processes: Number of processes.
        devices: CPU devices of all of them together.
    """
    command = [sys.executable, *([name] if name.endswith(".py") else ["-m", f"jaxtag.{name}"])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        # XLA's threads: those that wait in a collective must leave some to the others.
        "NPROC": "4",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
    }
    port = free_port()
    started = []
    for index in range(processes):
        process_flags = [
            f"--coordinator_address=localhost:{port}",
            f"--num_processes={processes}",
            f"--process_id={index}",
        ]
        started.append(
            subprocess.Popen(
                [*command, *map(str, arguments), *(process_flags if processes > 1 else [])],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,
            )
        )
    return Job(started)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def lines(workdir: Path, split: str = "train") -> dict[int, dict[str, float]]:
    """The lines of metrics.jsonl by step: {step: values}."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows if row["split"] == split}


def assert_same_losses(workdir: Path, expected_workdir: Path) -> None:
    """Sums of floats in another order differ in the last digits."""
    rows, expected_rows = lines(workdir), lines(expected_workdir)
    assert list(rows) == list(expected_rows)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            [line[name] for line in rows.values()],
            [line[name] for line in expected_rows.values()],
            rtol=1e-4,
        )
