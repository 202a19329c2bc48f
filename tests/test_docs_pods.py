"""Each line about pods in the documentation runs, with stubs of the cluster's commands."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from machines import Machines

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/guides/pods.md")
PROGRAMS = ("launch/tpu_pod.sh", "launch/ssh.sh", "sbatch", "kubectl", "sky", "docker")


def lines() -> list[str]:
    """The command lines of the pages' console blocks, continuation lines joined."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            commands = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
            found += [line for line in commands if line.split()[0] in PROGRAMS]
    return sorted(set(found))


def test_every_launcher_is_documented():
    assert {line.split()[0] for line in lines()} == set(PROGRAMS)


@pytest.mark.parametrize("line", [line for line in lines() if line.startswith("launch/")])
def test_a_launcher_takes_the_line(line, tmp_path):
    script, *arguments = shlex.split(line)
    machines = Machines(tmp_path, Path(script).name, ["mine-w0", "host0", "host1"])
    assert machines(*arguments).returncode == 0 or "--stop" in arguments
    hosts = (1, 2) if "ssh" in script else (0,)
    if "--stop" not in arguments:
        flags = shlex.join(arguments[arguments.index("train") + 1 :])
        assert all(f"-m jaxtag.train {flags}" in machines.ran(host)[0] for host in hosts)
    machines.close()


@pytest.mark.parametrize("line", [line for line in lines() if line.startswith("sbatch")])
def test_sbatch_takes_the_line(line, tmp_path):
    """Its options are sbatch's; what follows the script is the command."""
    _, *options = shlex.split(line)
    script = options.index("launch/slurm.sbatch")
    assert all(option.startswith("--") for option in options[:script])
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    named = {"SLURM_SUBMIT_DIR": ROOT, "SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "8"}
    done = subprocess.run(
        [ROOT / options[script], *options[script + 1 :]],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"} | {k: str(v) for k, v in named.items()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().endswith(f"-m jaxtag.{shlex.join(options[script + 1 :])}")


@pytest.mark.parametrize(
    "line", [line for line in lines() if line.split()[0] in ("kubectl", "sky", "docker")]
)
def test_the_files_that_a_line_names_are_there(line):
    words = shlex.split(line)
    for word in words:
        if "/" in word and word.endswith((".yaml", ".sbatch")):
            assert (ROOT / word).is_file()
    if words[0] == "docker":
        (target,) = (word.partition("=")[2] for word in words if word.startswith("--target="))
        assert f" AS {target}\n" in (ROOT / "Dockerfile").read_text()
