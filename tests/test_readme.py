"""The links, layout and first command of README.md and BUILD.md (their blocks: test_docs.py)."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BUILD = (ROOT / "BUILD.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line
    for language, block in BLOCKS
    if language == "bash"
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("launch/local.sh ")
]


def test_the_two_commands_come_first():
    assert [line.split()[1] for line in COMMANDS[:2]] == ["train", "test"]
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "page", ["README.md", "BUILD.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]
)
def test_links_lead_to_files(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    for link in links:
        assert "://" in link or (path.parent / link).exists(), f"{page}: {link}"


def test_layout_in_build_names_real_files():
    block = BUILD.split("## Layout")[1].split("```")[1]
    for name in re.findall(r"\b(\w+\.(?:py|sh))\b", block):
        assert list(ROOT.rglob(name)), f"BUILD.md names {name}, which is not there"


def test_names_in_build_are_those_of_files():
    section = BUILD.split("## Names")[1].split("## ")[0]
    rows = re.findall(r"^\| (.*) \| (.*) \| .* \|$", section, re.MULTILINE)
    for name in re.findall(r"`([\w/]+\.py)`", " ".join(chosen for _, chosen in rows)):
        assert list((ROOT / "jaxtag").glob(name.replace("X", "*"))), name


@pytest.mark.slow
def test_first_command_on_a_fresh_machine(tmp_path):
    """Installs in a new environment, trains as printed, and it plainly works."""
    clone, home = tmp_path / "clone", tmp_path / "home"
    ignored = shutil.ignore_patterns(".venv", ".git", "runs", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=ignored)
    home.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("TFDS_DATA_DIR", "XLA_FLAGS", "PYTHONPATH", "NPROC")
        and not name.startswith("JAX_")
    }
    done = subprocess.run(
        shlex.split(COMMANDS[0]),
        cwd=clone,
        env={**environment, "HOME": str(home), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((clone / "runs" / "shapes" / "results.json").read_text())
    assert rows["model"]["exact"] > 0.8
    assert rows["shuffled"]["exact"] < 0.1 and rows["constant"]["exact"] < 0.1
    assert (clone / "runs" / "shapes" / "captions.png").stat().st_size > 10_000
