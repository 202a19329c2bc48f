"""launch/local.sh, with a fake Python so that nothing is installed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxtag.training.preemption import RESTART_STATUS

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch" / "slurm.sbatch"])
SOURCED = {"remote_run.sh"}

# Does what the script asks of Python: creates an environment with itself, logs every call.
FAKE_PYTHON = """#!/usr/bin/env bash
echo "$PWD|$*" >> "$CALLS"
case "$1 $2" in
  "-c import socket"*) echo 4242 ;;
  "-m venv") mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  "-m jaxtag.train")
    [[ -z "${HANG:-}" ]] || { trap 'exit 75' TERM INT; touch "$CALLS.ready"
      while true; do sleep 0.05; done; }
    exec 9> "$STATUSES.lock"; flock 9
    read -r status step < "$STATUSES" || true; sed -i 1d "$STATUSES"; flock -u 9
    [[ -z "$step" ]] || echo "$step" > "$JAXTAG_STEP_FILE"
    [[ "$status" != forever ]] || exec sleep 1000
    exit "${status:-0}" ;;
esac
"""


# Where the tests run in the background, SIGINT is ignored, and a shell cannot trap it then.
WITH_INTERRUPTS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the launcher needs, in a folder with spaces."""
    root = tmp_path / "a check out"
    (root / "launch").mkdir(parents=True)
    (root / "jaxtag").mkdir()
    (root / "jaxtag" / "train.py").touch()
    (root / "jaxtag" / "weights").mkdir()
    (root / "jaxtag" / "weights" / "__main__.py").touch()
    shutil.copy(ROOT / "launch" / "local.sh", root / "launch")
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "constraints.txt").write_text("jax==0\n")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python3.11").write_text(FAKE_PYTHON)
    (binaries / "python3.11").chmod(0o755)
    (binaries / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (binaries / "nvidia-smi").chmod(0o755)
    return root


class Calls:
    """Runs the launcher of a checkout and logs the calls of its Python."""

    def __init__(self, root: Path):
        self.root, self.log = root, root.parent / "calls"
        self.elsewhere = root.parent / "else where"
        self.elsewhere.mkdir(exist_ok=True)
        self.statuses = root.parent / "statuses"

    def environment(self, statuses=(), **more) -> dict[str, str]:
        self.log.write_text("")
        self.statuses.write_text("".join(f"{status}\n" for status in statuses))
        path = f"{self.root.parent / 'bin'}:{os.environ['PATH']}"
        named = {"PATH": path, "CALLS": str(self.log), "STATUSES": str(self.statuses)}
        return {**{k: v for k, v in os.environ.items() if k != "PYTHON"}, **named, **more}

    def __call__(self, *arguments, **environment) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.root / "launch" / "local.sh", *arguments],
            cwd=self.elsewhere,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def seen(self, what: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if what in line]


@pytest.fixture
def launch(checkout):
    return Calls(checkout)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) is (script.name not in SOURCED)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs Debian's shellcheck")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    done = subprocess.run(["shellcheck", "-x", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_makes_the_environment_once_and_runs_where_it_was_called(launch, checkout):
    done = launch("train", "--workdir=my runs", "--config=a b")
    assert done.returncode == 0, done.stderr
    assert launch.seen("-m venv")
    assert "--editable .[test] --constraint constraints.txt" in launch.seen("pip install")[0]
    run = f"{launch.elsewhere}|-m jaxtag.train --workdir=my runs --config=a b"
    assert launch.seen("jaxtag.train") == [run]
    assert launch("train").returncode == 0
    assert not launch.seen("-m venv") and not launch.seen("pip install")
    (checkout / "constraints.txt").write_text("jax==1\n")
    assert launch("train").returncode == 0
    assert not launch.seen("-m venv") and launch.seen("pip install")


def test_a_command_that_is_a_package(launch):
    assert launch("weights", "import").returncode == 0
    assert launch.seen("jaxtag.weights") == [f"{launch.elsewhere}|-m jaxtag.weights import"]


def test_cuda_where_there_is_a_gpu(launch):
    (launch.root.parent / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0\n")
    assert launch("train").returncode == 0
    assert "--editable .[test,cuda]" in launch.seen("pip install")[0]


def test_tests_run_in_the_checkout(launch, checkout):
    assert launch("test", "-k", "a or b").returncode == 0
    assert launch.seen("-m pytest") == [f"{checkout}|-m pytest -n 2 --dist loadfile -k a or b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no command 'nothing'"),
        (["../train"], "no command"),
        (["--fast", "train"], "unknown option --fast"),
        (["--restarts=x", "train"], "--restarts=x is not a number"),
        (["--processes=0", "train"], "--processes=0 is not a number above 0"),
        ([], "COMMAND"),
    ],
)
def test_wrong_use(launch, arguments, message):
    done = launch(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not launch.seen("")


OLD_PYTHON = """#!/usr/bin/env bash
echo "old|$*" >> "$CALLS"
[[ "$1" != -c ]] || exit 1  # it is Python 3.10
[[ "$2 $3 $4" == "pip install --quiet" ]] || exit 1
target="$6"; mkdir -p "$target/bin"; cp "$UV" "$target/bin/uv"
"""
UV = """#!/usr/bin/env bash
echo "uv|$*" >> "$CALLS"
mkdir -p "${@: -1}/bin" && cp "$NEW_PYTHON" "${@: -1}/bin/python"
"""


def test_where_python_is_3_10_uv_fetches_a_newer_one(launch, checkout, monkeypatch, tmp_path):
    binaries = tmp_path / "bin"
    (binaries / "python3.11").rename(tmp_path / "new_python")
    for name in ("python3.11", "python3.12", "python3.13"):
        (binaries / name).write_text("#!/bin/sh\nexit 127\n")
    (binaries / "python3").write_text(OLD_PYTHON)
    (tmp_path / "uv").write_text(UV)
    for path in (*binaries.iterdir(), tmp_path / "uv"):
        path.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    named = {"UV": str(tmp_path / "uv"), "NEW_PYTHON": str(tmp_path / "new_python")}
    done = launch("install", JAXTAG_EXTRAS="tpu", **named)
    assert done.returncode == 0, done.stderr
    (created,) = launch.seen("uv|venv")
    assert "--seed --python 3.11" in created and created.endswith(f"{checkout}/.venv")
    assert "--editable .[tpu] --constraint" in launch.seen("-m pip install --quiet --disable")[0]
    assert launch("train", JAXTAG_EXTRAS="tpu", **named).returncode == 0
    assert not launch.seen("uv|venv") and len(launch.seen("jaxtag.train")) == 1


def test_no_python(launch):
    done = launch("train", PYTHON="/nowhere/python")
    assert done.returncode == 1
    assert "PYTHON=/nowhere/python is not Python 3.11" in done.stderr


@pytest.mark.parametrize(
    ("option", "statuses", "status", "runs"),
    [
        ([], [RESTART_STATUS], RESTART_STATUS, 1),
        (["--restarts=5"], [RESTART_STATUS, 137, 0], 0, 3),
        (["--restarts=2"], [RESTART_STATUS] * 9, RESTART_STATUS, 3),
        (["--restarts=5"], [RESTART_STATUS, 1], 1, 2),
        (["--restarts=5"], [70, 70, 0], 0, 3),
        (["--restarts=5"], [130], 130, 1),  # a second Ctrl-C
        (["--restarts=5"], [2], 2, 1),
    ],
)
def test_restarts(launch, option, statuses, status, runs):
    assert launch(*option, "train", statuses=statuses).returncode == status
    assert len(launch.seen("jaxtag.train")) == runs


@pytest.mark.parametrize(
    ("steps", "runs"),
    [
        ([0, 0, 0, 10], 3),  # three starts without progress
        ([0, 0, 10, 10, 20, 20, 20, 30], 7),  # the budget is given back at 10 and at 20
        (["", "", "", 10], 3),  # none came to its state
    ],
)
def test_restarts_are_given_back_when_the_step_has_grown(launch, steps, runs):
    statuses = [f"70 {step}" for step in steps]
    assert launch("--restarts=2", "train", statuses=statuses).returncode == 70
    assert len(launch.seen("jaxtag.train")) == runs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("option", [[], ["--restarts=5"]])
def test_signals_reach_the_run_and_end_it(launch, number, option):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            WITH_INTERRUPTS,
            launch.root / "launch" / "local.sh",
            *option,
            "train",
        ],
        env=launch.environment(HANG="1"),
        stderr=subprocess.DEVNULL,
    )
    ready = launch.log.with_name("calls.ready")
    deadline = time.monotonic() + 30
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(20) == RESTART_STATUS
    assert len(launch.seen("jaxtag.train")) == 1


def test_processes_get_their_ids(launch):
    assert launch("--processes=3", "train", "--workdir=w").returncode == 0
    common = "-m jaxtag.train --workdir=w --coordinator_address=localhost:4242 --num_processes=3"
    calls = [line.split("|")[1] for line in launch.seen("jaxtag.train")]
    assert sorted(calls) == [f"{common} --process_id={index}" for index in range(3)]


@pytest.mark.parametrize(
    ("statuses", "status", "runs"),
    [
        ([RESTART_STATUS, RESTART_STATUS, 0, 0], 0, 4),  # stopped by a signal, then done
        ([134, RESTART_STATUS, 0, 0], 0, 4),  # one killed
        ([134, 1], 1, 2),  # a failure, whatever it did to the other
        ([2, 2], 2, 2),
    ],
)
def test_all_processes_start_again_or_none(launch, statuses, status, runs):
    done = launch("--processes=2", "--restarts=3", "train", statuses=statuses)
    assert done.returncode == status
    assert len(launch.seen("jaxtag.train")) == runs


def test_a_process_that_hangs_when_another_is_gone_is_killed(launch):
    script = launch.root / "launch" / "local.sh"
    script.write_text(script.read_text().replace("readonly patience=90", "readonly patience=1"))
    done = launch("--processes=2", "train", statuses=["forever", RESTART_STATUS])
    assert done.returncode == 137


def test_gpus_are_shared_out(launch):
    nvidia = launch.root.parent / "bin" / "nvidia-smi"
    nvidia.write_text("#!/bin/sh\nfor gpu in 0 1 2 3; do echo GPU $gpu; done\n")
    seen = launch.root.parent / "bin" / "python3.11"
    seen.write_text(seen.read_text().replace('|$*"', '|$*|${CUDA_VISIBLE_DEVICES:-all}"'))
    assert launch("--processes=2", "train").returncode == 0
    assert sorted(line.split("|")[2] for line in launch.seen("jaxtag.train")) == ["0,1", "2,3"]
    refused = launch("--processes=3", "train")
    assert refused.returncode == 2
    assert "--processes=3 does not divide the 4 GPUs" in refused.stderr
