"""Several processes of one command on this machine, each with its share of 4 CPU devices."""

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
    """Processes that were started together; each in a group of its own with its workers."""

    processes: list[subprocess.Popen]

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """The exit statuses; what each said on stderr is then in `errors`."""
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
        """Reads what a process says until a line holds `text`, or it ends."""
        for line in self.processes[index].stderr:
            if text in line:
                return


def start(name: str, *arguments: object, processes: int = 2, devices: int = DEVICES) -> Job:
    """`python -m jaxtag.NAME ARGUMENTS…` as so many processes with `devices` CPU devices together.

    A name that ends with .py is a program of its own, which gets the flags too.
    """
    command = [sys.executable, *([name] if name.endswith(".py") else ["-m", f"jaxtag.{name}"])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // processes}",
    }
    port = free_port()
    started = []
    for index in range(processes):
        place = [
            f"--coordinator_address=localhost:{port}",
            f"--num_processes={processes}",
            f"--process_id={index}",
        ]
        started.append(
            subprocess.Popen(
                [*command, *map(str, arguments), *(place if processes > 1 else [])],
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
    """What a run wrote about its steps: {step: values}."""
    written = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in written if line["split"] == split}


def assert_same_losses(found: Path, expected: Path) -> None:
    """Sums of floats in another order differ in the last digits."""
    found_lines, expected_lines = lines(found), lines(expected)
    assert list(found_lines) == list(expected_lines)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(
            [line[name] for line in found_lines.values()],
            [line[name] for line in expected_lines.values()],
            rtol=1e-4,
        )
