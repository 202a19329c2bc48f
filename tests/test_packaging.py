"""The built distributions contain what an installed jaxtag needs, each file once."""

import collections
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import jaxtag

ROOT = Path(__file__).parents[1]
DATA_FILES = {
    "jaxtag/py.typed",
    "jaxtag/inference/writers/gallery.html",
    "jaxtag/perf/pages/base.html",
    "jaxtag/perf/pages/profile.js",
}


def _build(source: Path, folder: Path, target: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", folder],
        cwd=source,
        check=True,
        capture_output=True,
        text=True,
    )
    (archive,) = folder.iterdir()
    return archive


def _sources(folder: str) -> set[str]:
    """The Python files below a folder of the checkout; links to folders are not followed."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}


def _check_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    assert not repeated
    modules = {name for name in names if name.endswith(".py")}
    assert modules == _sources("jaxtag") | {f"jaxtag/{name}" for name in _sources("configs")}
    assert set(names) >= DATA_FILES
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_wheel_has_the_modules_configurations_and_pages_once(tmp_path):
    _check_wheel(_build(ROOT, tmp_path, "wheel"))


@pytest.mark.slow
def test_source_distribution_builds_the_same_wheel(tmp_path):
    source = _build(ROOT, tmp_path / "sdist", "sdist")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (folder,) = (tmp_path / "unpacked").iterdir()
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert names >= {"LICENSE", "CHANGELOG.md", "configs", "docs/index.md", "launch/local.sh"}
    _check_wheel(_build(folder, tmp_path / "wheel", "wheel"))


def test_data_files_exist():
    for name in DATA_FILES:
        assert (ROOT / name).is_file(), name


def test_metadata_agrees():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    assert "license: Apache-2.0" in citation
    version = metadata["version"]
    assert version == jaxtag.__version__
    assert f"version: {version}\n" in citation
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_workflow_runs_the_checks_and_hooks_need_no_network():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python-version"] == ["3.11", "3.12"]
    assert job["steps"][-1]["run"] == ".ci/run"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [item["repo"] for item in hooks["repos"]] == ["local"]
    commands = [hook["entry"].split()[0] for item in hooks["repos"] for hook in item["hooks"]]
    assert commands == ["ruff", "ruff", "mypy"]


def test_constraints_cover_what_the_tests_install():
    """Whatever is installed from pyproject.toml is pinned."""
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = project["dependencies"] + extras["cpu"] + extras["docs"] + extras["test"]
    names = {_normalized(re.match(r"[\w.-]+", item)[0]) for item in requirements} - {"jaxtag"}
    assert names <= {_normalized(name) for name in pinned}


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
