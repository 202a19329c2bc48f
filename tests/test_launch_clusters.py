"""The files for clusters: JobSet against the schema of its CRD, SkyPilot's YAML, Dockerfile."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
}


@pytest.fixture(scope="module")
def jobset() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def problems(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What an API server finds wrong with a value: OpenAPI v3, as CRDs use it."""
    if schema.get("x-kubernetes-int-or-string"):
        return [] if type(value) in (int, str) else [f"{where}: must be an integer or a string"]
    if "type" in schema and type(value) is not TYPES[schema["type"]]:
        return [f"{where}: must be {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: must be one of {schema['enum']}"]
    found = []
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        found += [f"{where}.{name}: unknown" for name in value if name not in known]
        missing = set(schema.get("required", ())) - set(value)
        found += [f"{where}.{name}: missing" for name in sorted(missing)]
        for name in set(value) & set(known):
            found += problems(value[name], known[name], f"{where}.{name}")
    if isinstance(value, dict) and "additionalProperties" in schema:
        for name, item in value.items():
            found += problems(item, schema["additionalProperties"], f"{where}.{name}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            found += problems(item, schema["items"], f"{where}[{number}]")
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1000):
            found.append(f"{where}: too few or too many")
    if type(value) is int and not schema.get("minimum", -1e9) <= value <= schema.get(
        "maximum", 1e9
    ):
        found.append(f"{where}: out of range")
    return found


def pod_spec(jobset: dict[str, Any]) -> dict[str, Any]:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_the_jobset_fits_the_published_schema(jobset):
    schema = json.loads((ROOT / "tests" / "references" / "jobset_crd.json").read_text())["schema"]
    assert problems(jobset, schema) == []
    jobset = json.loads(json.dumps(jobset))
    jobset["spec"]["failurePolicy"]["rules"][0]["action"] = "Fail"
    jobset["spec"]["replicatedJobs"][0]["replica"] = 1
    pod_spec(jobset)["containers"][0].pop("name")
    assert len(problems(jobset, schema)) == 3


def test_the_jobset_passes_admission(jobset):
    """What the API server and JobSet's webhook check beyond the schema."""
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    # All hosts at once, and any that fails fails the Job.
    assert job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
    assert job["completionMode"] == "Indexed"
    pod = pod_spec(jobset)
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    (rule,) = job["podFailurePolicy"]["rules"]
    (container,) = pod["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    codes = rule["onExitCodes"]["values"]
    assert codes == sorted(set(codes)) and 0 not in codes
    name = f"{jobset['metadata']['name']}-{jobset['spec']['replicatedJobs'][0]['name']}"
    assert len(f"{name}-0-{job['completions']}-abcde") <= 63
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    chips = container["resources"]["limits"]["google.com/tpu"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert chips * job["parallelism"] == rows * columns


def test_failures_end_the_jobset_and_all_else_starts_it_again(jobset):
    (policy,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (policy["action"], policy["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
    final = set(rule["onExitCodes"]["values"])
    assert {1, 2, 130} <= final and not final & {70, 75, 134, 137, 143}
    environment = {item["name"]: item for item in pod_spec(jobset)["containers"][0]["env"]}
    path = environment["JAXTAG_JOB"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['jobset.sigs.k8s.io/jobset-uid']"


def test_data_workers_have_shared_memory(jobset):
    pod = pod_spec(jobset)
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount["mountPath"] == "/dev/shm"
    assert pod["volumes"][0]["emptyDir"]["medium"] == "Memory"


def dockerfile() -> dict[str, list[str]]:
    """Target -> its instructions."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stages: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"FROM .* AS (\w+)", line):
            stages[match[1]] = []
        elif line and not line.startswith("#"):
            stages[list(stages)[-1]].append(" ".join(line.split()))
    return stages


def test_the_dockerfile_has_a_target_for_each_platform():
    stages = dockerfile()
    assert list(stages) == ["base", "cpu", "cuda", "tpu"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for target in ("cpu", "cuda", "tpu"):
        first, *_ = stages[target]
        assert first == f'RUN pip install ".[{target}]" --constraint constraints.txt'
        assert target in extras
    for line in stages["base"]:
        for name in line.split()[1:-1] if line.startswith("COPY") else ():
            assert (ROOT / name).exists()


@pytest.mark.slow
def test_the_dockerfiles_pip_lines_make_an_environment(tmp_path):
    """Those of the target cpu, in an environment of its own."""
    environment, context = tmp_path / "venv", tmp_path / "context"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    path = {**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    path.pop("PYTHONPATH", None)
    context.mkdir()
    stages = dockerfile()
    for line in (*stages["base"], *stages["cpu"]):
        instruction, _, rest = line.partition(" ")
        if line == "COPY . .":
            ignored = shutil.ignore_patterns(*(ROOT / ".dockerignore").read_text().split())
            shutil.copytree(ROOT, context, symlinks=True, ignore=ignored, dirs_exist_ok=True)
        elif instruction == "COPY":
            *names, target = rest.split()
            (context / target).mkdir(exist_ok=True)
            for name in names:
                shutil.copy(ROOT / name, context / target)
        elif instruction == "RUN" and rest.startswith("pip "):
            subprocess.run(shlex.split(rest), cwd=context, env=path, check=True)
    for command in (["jaxtag", "train", "--help"], ["jaxtag", "--help"]):
        done = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    program = "import jaxtag.configs.coco_caption, jaxtag; print(jaxtag.__file__)"
    done = subprocess.run(
        ["python", "-c", program], cwd=tmp_path, env=path, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(environment)), done.stderr


def test_the_skypilot_task_runs_the_launcher():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert set(task) == {"name", "resources", "num_nodes", "workdir", "setup", "run"}
    recovery = task["resources"]["job_recovery"]
    assert recovery == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [70, 75]}
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n", "-c", script], check=True)


# Ends as the first line of $STATUSES says: STATUS [STEP].
SRUN = """#!/usr/bin/env bash
echo "$JAX_PLATFORMS|$JAXTAG_JOB|$*" >> "$CALLS"
read -r status step < "$STATUSES"; sed -i 1d "$STATUSES"
[[ -z "$step" ]] || echo "$step" > "$JAXTAG_STEP_FILE"
exit "${status:-0}"
"""


@pytest.fixture
def sbatch(tmp_path):
    """Runs launch/slurm.sbatch with a stub of srun: (exit status, calls of srun)."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)

    def sbatch(*statuses: str, **named: str) -> tuple[int, list[str]]:
        (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "STATUSES": str(tmp_path / "statuses"),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "17",
            "SLURM_CPUS_ON_NODE": "96",
            "SLURM_NTASKS_PER_NODE": "8",
            **named,
        }
        done = subprocess.run(
            [LAUNCH / "slurm.sbatch", "train", "--config=a b"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, (tmp_path / "calls").read_text().splitlines()

    return sbatch


def test_a_slurm_task_gets_its_share_of_the_cpus(sbatch):
    status, (call,) = sbatch()
    assert status == 0
    assert " --cpus-per-task=12 " in call and call.endswith("-m jaxtag.train --config=a b")
    assert call.startswith("|17|")  # no GPU, no platform
    directives = (LAUNCH / "slurm.sbatch").read_text()
    assert "\n#SBATCH --exclusive\n" in directives and "\n#SBATCH --mem=0\n" in directives


def test_a_gpu_that_is_in_use_is_no_run_on_cpu(sbatch):
    _, (call,) = sbatch(SLURM_GPUS_ON_NODE="8")
    assert call.startswith("cuda,cpu|")


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        (
            "/images/jaxtag.sif",
            ["apptainer exec --nv --bind {root},/data:/data /images/jaxtag.sif"],
        ),
        (
            "registry/jaxtag",
            [
                "--container-image=registry/jaxtag --container-workdir={root}",
                "--container-mounts={root}:{root},/data:/data python -m jaxtag.train",
            ],
        ),
    ],
)
def test_slurm_in_a_container(sbatch, image, parts):
    _, (call,) = sbatch(JAXTAG_IMAGE=image, JAXTAG_MOUNTS="/data:/data")
    for part in parts:
        assert part.format(root=ROOT) in call


@pytest.mark.parametrize(
    ("statuses", "status", "runs"),
    [
        (["75", "70", "137"], 137, 3),  # three starts without progress
        (["70", "70 10", "70 10", "70 20", "0"], 0, 5),
        (["1"], 1, 1),
        (["2"], 2, 1),
        (["130"], 130, 1),
    ],
)
def test_a_slurm_step_starts_again_or_ends(sbatch, statuses, status, runs):
    ended, calls = sbatch(*statuses)
    assert (ended, len(calls)) == (status, runs)
