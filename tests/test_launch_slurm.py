"""launch/slurm.sbatch on a real Slurm of one node: to the end, and on after a task was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster

ROOT = Path(__file__).parents[1]
SECONDS = 600  # for a job to end, on a busy machine
STEPS = 40
_UNDER_WAY = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not slurm_cluster.is_there(), reason="needs root and Debian's slurm-wlm and munge"
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm"), tasks=4) as environment:
        yield {
            **environment,
            "JAXTAG_ROOT": str(ROOT),
            "JAXTAG_PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }


class SlurmJob:
    """A submitted launch/slurm.sbatch."""

    def __init__(self, environment: dict[str, str], folder: Path, *arguments: object):
        self.environment, self.log = environment, folder / "job.log"
        flags = ["--parsable", "--ntasks-per-node=2", f"--output={self.log}"]
        script = ROOT / "launch" / "slurm.sbatch"
        self.number = self._ask("sbatch", *flags, script, "train", *arguments)

    def _ask(self, *command: object) -> str:
        done = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def until(self, text: str) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.output():
            assert time.monotonic() < deadline, self.output()[-4000:]
            time.sleep(0.2)

    def signal(self, name: str) -> None:
        self._ask("scancel", "--batch", f"--signal={name}", self.number)

    def wait(self) -> tuple[str, str]:
        """(state, exit status:signal) of the job when it has ended."""
        deadline = time.monotonic() + SECONDS
        while True:
            shown = self._ask("scontrol", "--oneliner", "show", "job", self.number)
            fields = dict(field.partition("=")[::2] for field in shown.split())
            if fields["JobState"] not in _UNDER_WAY:
                return fields["JobState"], fields["ExitCode"]
            assert time.monotonic() < deadline, self.output()[-4000:]
            time.sleep(0.5)


# Fakes Python: at first does what $HOW says, later succeeds.
FAKE_PYTHON = """#!/usr/bin/env bash
trap 'echo "task $SLURM_PROCID told"; exit 75' TERM
echo "task $SLURM_PROCID of $SLURM_NTASKS: $*"
first=no; [[ -e "$DONE.$SLURM_PROCID" ]] || first=yes; touch "$DONE.$SLURM_PROCID"
case "$HOW $first" in
  "kill yes") [[ $SLURM_PROCID == 0 ]] || kill -9 $$; sleep 1; exit 134 ;;
  "fail yes") exit 1 ;;
  "wait yes") for _ in $(seq 600); do sleep 0.1; done ;;
esac
"""


@pytest.fixture
def fake_python(slurm, tmp_path):
    """Submits the script with a fake Python that ends as $HOW says."""
    (tmp_path / "python").write_text(FAKE_PYTHON)
    (tmp_path / "python").chmod(0o755)
    named = {"JAXTAG_PYTHON": str(tmp_path / "python"), "DONE": str(tmp_path / "done")}
    return lambda how: SlurmJob({**slurm, **named, "HOW": how}, tmp_path, "--config=a b")


@pytest.mark.parametrize(
    ("how", "outcome", "runs"),
    [
        ("succeed", ("COMPLETED", "0:0"), 1),
        ("kill", ("COMPLETED", "0:0"), 2),
        ("fail", ("FAILED", "1:0"), 1),
    ],
)
def test_tasks_start_again_or_not(fake_python, how, outcome, runs):
    job = fake_python(how)
    assert job.wait() == outcome, job.output()
    for task in range(2):
        line = f"task {task} of 2: -m jaxtag.train --config=a b\n"
        assert job.output().count(line) == runs


def test_stopped_by_a_signal_the_job_is_requeued_and_resumes(fake_python):
    job = fake_python("wait")
    job.until("task 0 of 2")
    job.until("task 1 of 2")
    job.signal("TERM")
    # Slurm makes a job that comes back wait for two minutes.
    assert job.wait() == ("COMPLETED", "0:0"), job.output()
    assert "task 0 told" in job.output() and "task 1 told" in job.output()
    assert "back into the queue" in job.output()
    assert job.output().count("task 0 of 2") == 2


def flags(config: str, workdir: Path) -> list[str]:
    rhythm = ["--config.log_every=1", "--config.checkpoint_every=5"]
    rhythm += [f"--config.total_steps={STEPS}", f"--config.evaluate_every={STEPS}"]
    return [f"--config={config}", f"--workdir={workdir}", *rhythm]


def test_a_killed_task_does_not_end_the_job(slurm, own_config, tmp_path):
    workdir = tmp_path / "run"
    job = SlurmJob(slurm, tmp_path, *flags(own_config, workdir))
    job.until("2 processes (found by slurm)")
    job.until("step 8/")
    tasks = subprocess.run(["pgrep", "-f", f"jaxtag.train .*{workdir}"], capture_output=True)
    tasks = [int(pid) for pid in tasks.stdout.split() if _is_python(int(pid))]
    os.kill(max(tasks), signal.SIGKILL)
    assert job.wait() == ("COMPLETED", "0:0"), job.output()[-4000:]
    assert "starting again (1 left)" in job.output()
    assert "going on from step" in job.output()
    assert (workdir / "results.json").exists()


def test_a_failure_ends_the_job_with_its_status(slurm, own_config, tmp_path):
    arguments = [*flags(own_config, tmp_path / "run"), "--config.batch_size=9"]
    job = SlurmJob(slurm, tmp_path, *arguments)
    assert job.wait() == ("FAILED", "1:0")
    assert "config.batch_size" in job.output()
    assert "starting again" not in job.output()


def _is_python(pid: int) -> bool:
    return "python" in Path(f"/proc/{pid}/exe").resolve().name
