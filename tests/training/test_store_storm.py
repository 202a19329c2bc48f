"""Kill storms and faults on an object store: a run ends with the bits of an unbroken one."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_gcs import FakeGcs, faults_at_rate
from jobs import free_port

pytest.importorskip("gcsfs")

PROGRAM = Path(__file__).with_name("killable_run.py")
STEPS = 20
SECONDS = 300  # for a run that is not killed, on a busy machine


@pytest.fixture
def server():
    with FakeGcs(["bucket"]) as server:
        yield server


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> bytes:
    """The last state of a run on a disk that is not killed."""
    folder = tmp_path_factory.mktemp("unbroken")
    finish(start(folder, {}))
    return (folder / "final").read_bytes()


def start(directory: object, environment: dict[str, str]) -> list[subprocess.Popen]:
    """Two processes of one run."""
    port = free_port()
    environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    return [
        subprocess.Popen(
            [
                sys.executable,
                PROGRAM,
                str(directory),
                "0",
                str(STEPS),
                str(process),
                "2",
                str(port),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        for process in range(2)
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors


def kill_some(processes: list[subprocess.Popen], draw: random.Random) -> bool:
    """Kills one process or both, some steps and some time after the start; False: they ended."""
    steps = draw.randint(0, 4)
    watchdog = threading.Timer(SECONDS, lambda: [p.kill() for p in processes])
    watchdog.start()
    for line in processes[0].stdout:
        steps -= line.startswith("step ")
        if steps < 0:
            break
    time.sleep(draw.uniform(0, 0.5))
    watchdog.cancel()
    alive = any(process.poll() is None for process in processes)
    for process in draw.sample(processes, 2):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(draw.choice([0, 0, 0.3]))  # the other goes on for a moment
    for process in processes:
        process.communicate()
    return alive


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_storm_of_five_kills(server, unbroken, seed):
    draw, kills = random.Random(seed), 0
    server.faults = faults_at_rate(0.02)
    for _ in range(30):
        kills += kill_some(start("gs://bucket/run", server.environment), draw)
        if kills == 5:
            break
    finish(start("gs://bucket/run", server.environment))
    print(f"{kills} kills, {sum(server.requests.values())} requests: {dict(server.requests)}")
    assert server.read("run/final") == unbroken
    steps = [json.loads(line)["step"] for line in server.read("run/metrics.jsonl").splitlines()]
    assert steps == list(range(1, STEPS + 1))
