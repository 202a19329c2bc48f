"""Runs the cases of one kind in child processes, which are ended where a case does not end.

    python tests/fuzz/runner.py KIND SEED COUNT FOLDER

KIND is images, tables, archives, official, forms or runs.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).parent
_CPU_SECONDS = 5.0  # a case takes no more
_WALL_SECONDS = 60.0  # nor does it wait
_START_SECONDS = 300.0


@dataclass
class Outcome:
    """What became of the cases.

    Attributes:
        faults: of each faulty case a line and its folder.
        counts: accepted and refused cases.
        slowest: seconds of CPU time of one case.
        largest: bytes that one case added.
    """

    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0


def run(kind: str, seed: int, count: int, folder: Path) -> Outcome:
    """Tries `count` cases; the files of a faulty one stay in `folder`."""
    outcome, start, stop = Outcome(), 0, count
    while start < stop:
        start = _run_child(kind, seed, start, stop, folder, outcome)
    return outcome


def _run_child(kind: str, seed: int, start: int, stop: int, folder: Path, outcome: Outcome) -> int:
    """Runs one child to its end; returns the number of the case to go on with."""
    command = [sys.executable, _HERE / "child.py", kind, *map(str, (seed, start, stop)), folder]
    paths = [str(_HERE), str(_HERE.parent), str(_HERE.parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert child.stdout is not None and child.stderr is not None
    case, began, cpu, rest = None, time.monotonic(), 0.0, b""
    try:
        while True:
            ready = select.select([child.stdout], [], [], 0.5)[0]
            if not ready:
                limit = _START_SECONDS if case is None else _WALL_SECONDS
                waited, used = time.monotonic() - began, _cpu_seconds(child.pid) - cpu
                if waited > limit or (case is not None and used > 2 * _CPU_SECONDS):
                    what = f"does not end: {used:.0f} s of CPU time in {waited:.0f} s"
                    outcome.faults.append(f"{folder}/{kind}-{seed}-{case}: {what}")
                    return stop if case is None else case + 1
                continue
            block = os.read(child.stdout.fileno(), 1 << 16)
            if not block:
                child.wait()
                what = f"status {child.returncode}: {child.stderr.read()[-2000:].decode()}"
                outcome.faults.append(f"{folder}/{kind}-{seed}-{case}: {what}")
                return stop if case is None else case + 1
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                text = line.decode()
                if text == "end":
                    return stop
                if text.isdecimal():
                    case, began, cpu = int(text), time.monotonic(), _cpu_seconds(child.pid)
                elif text.startswith("{"):
                    report = json.loads(text)
                    outcome.faults.append(
                        f"{folder}/{kind}-{seed}-{case} ({report['item']}): {report['fault']}"
                    )
                else:
                    name, seconds, memory = text.split()
                    outcome.counts[name] += 1
                    outcome.slowest = max(outcome.slowest, float(seconds))
                    outcome.largest = max(outcome.largest, int(memory))
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        child.stderr.close()


def _cpu_seconds(process: int) -> float:
    """CPU time of a process; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    kind, seed, count, folder = sys.argv[1:]
    result = run(kind, int(seed), int(count), Path(folder))
    print(*result.faults, sep="\n\n")
    print(dict(result.counts), f"slowest {result.slowest:.2f} s, most {result.largest >> 20} MiB")
    sys.exit(bool(result.faults))
