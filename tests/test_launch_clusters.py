"""The launchers of clusters, with fakes for their commands: JobSet's schema, gcloud, srun."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxtag.training.preemption import RESTART_STATUS

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"

# What jobset.x-k8s.io/v1alpha2, batch/v1 and core/v1 allow of what the file uses; `list` of one.
CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}],
    "ports": [{"containerPort": int}],
    "resources": {"limits": dict},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": dict,
    "containers": [CONTAINER],
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
}
ON_EXIT_CODES = {"containerName": str, "operator": str, "values": [int]}
JOB = {
    "parallelism": int,
    "completions": int,
    "backoffLimit": int,
    "podFailurePolicy": {"rules": [{"action": str, "onExitCodes": ON_EXIT_CODES}]},
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": dict},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [{"action": str, "onJobFailureReasons": [str]}],
        },
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": JOB}}],
    },
}


def check(value: Any, schema: Any, where: str = "") -> None:
    if isinstance(schema, dict):
        assert isinstance(value, dict) and set(value) <= set(schema), where
        for name, inner in value.items():
            check(inner, schema[name], f"{where}.{name}")
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, where
        for item in value:
            check(item, schema[0], f"{where}[]")
    else:
        assert type(value) is schema, where


def test_the_jobset_is_one():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    check(jobset, JOBSET)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (policy,) = jobset["spec"]["failurePolicy"]["rules"]
    assert policy == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    # All hosts at once, and any that fails fails the Job.
    assert job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {
        "containerName": pod["containers"][0]["name"],
        "operator": "In",
        "values": [1, 2, 126, 127, 130],
    }
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert chips * job["parallelism"] == rows * columns


GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
next() { head -n 1 "$1"; sed -i 1d "$1"; }
case "$*" in
  *queued-resources\\ describe*)
    now="$(next "$STATES")"; [[ "$now" != ABSENT ]] || exit 1; echo "${now:-ACTIVE}" ;;
  *ssh*jaxtag.train*)
    for status in $(next "$STATUSES"); do echo "jaxtag ended with $status"; done; exit 1 ;;
esac
"""


class Pod:
    """Calls launch/tpu_pod.sh with a gcloud that has these states and outcomes, in turn."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "calls"
        (folder / "bin").mkdir()
        (folder / "bin" / "gcloud").write_text(GCLOUD)
        (folder / "bin" / "gcloud").chmod(0o755)
        (folder / "root" / "jaxtag").mkdir(parents=True)
        (folder / "root" / "launch").mkdir()
        (folder / "root" / "jaxtag" / "train.py").touch()
        shutil.copy(LAUNCH / "tpu_pod.sh", folder / "root" / "launch")

    def __call__(self, *arguments, states=(), statuses=()) -> subprocess.CompletedProcess:
        self.log.write_text("")
        for name, lines in (("states", states), ("statuses", statuses)):
            (self.folder / name).write_text("".join(f"{line}\n" for line in lines))
        named = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "CALLS": self.log,
            "STATES": self.folder / "states",
            "STATUSES": self.folder / "statuses",
            "POLL_SECONDS": "0.01",
        }
        return subprocess.run(
            [self.folder / "root" / "launch" / "tpu_pod.sh", *arguments],
            env={**os.environ, **{name: str(value) for name, value in named.items()}},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def seen(self, what: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if what in line]


@pytest.fixture
def pod(tmp_path):
    return Pod(tmp_path)


SLICE = ["--name=mine", "--zone=us-west4-a", "--type=v5litepod-16"]


def test_a_slice_is_requested_awaited_and_used(pod):
    waiting = ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    run = ["train", "--config=a b"]
    done = pod(*SLICE, "--spot", "--delete", *run, states=waiting, statuses=["0 0"])
    assert done.returncode == 0, done.stderr
    (created,) = pod.seen("queued-resources create")
    for flag in (
        "create mine --zone=us-west4-a",
        "--node-id=mine --accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--spot",
    ):
        assert flag in created
    assert pod.seen("tpu-vm scp") and "--worker=all" in pod.seen("tpu-vm scp")[0]
    assert len(pod.seen("jaxtag.train --config=a\\ b")) == 1
    assert pod.seen("queued-resources delete mine")


def test_an_active_slice_is_reused_and_kept(pod):
    assert pod(*SLICE, "train", statuses=["0 0"]).returncode == 0
    assert not pod.seen("create") and not pod.seen("delete")


@pytest.mark.parametrize(
    ("statuses", "status", "runs"),
    [
        ([f"{RESTART_STATUS} {RESTART_STATUS}", "134 75", "0 0"], 0, 3),
        (["70 75", "0 0"], 0, 2),
        (["134 1"], 1, 1),  # a failure, whatever it caused on the other
        (["75 75"] * 3, RESTART_STATUS, 3),
        (["", "0 0"], 0, 2),  # no worker reported its status
    ],
)
def test_all_workers_start_again_or_none(pod, statuses, status, runs):
    assert pod(*SLICE, "--restarts=2", "train", statuses=statuses).returncode == status
    assert len(pod.seen("jaxtag.train")) == runs


def test_a_preempted_slice_is_requested_again(pod):
    states = ["ACTIVE", "SUSPENDED", "ABSENT", "ACTIVE"]
    done = pod(*SLICE, "train", states=states, statuses=["", "0"])
    assert done.returncode == 0, done.stderr
    assert pod.seen("queued-resources delete mine") and pod.seen("queued-resources create mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--name is missing"),
        ([*SLICE, "--fast", "train"], "unknown option --fast"),
        ([*SLICE, "nothing"], "no command 'nothing'"),
        ([*SLICE, "--restarts=x", "train"], "--restarts=x is not a number"),
        ([*SLICE[:2], "--type=v9-8", "train"], "--type=v9-8: no software is known"),
    ],
)
def test_wrong_use(pod, arguments, message):
    done = pod(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not pod.seen("")
