"""Types, lints and format of the tree, as the tools of pyproject.toml see them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "command", [("mypy",), ("ruff", "check", "."), ("ruff", "format", "--check", ".")], ids=" ".join
)
def test_the_tree_is_clean(command) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
