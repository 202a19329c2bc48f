"""Texts that must not change unseen (tests/perf/golden)."""

import os
from pathlib import Path

_FOLDER = Path(__file__).parent / "perf" / "golden"


def writing() -> bool:
    """Whether the files are to be written anew."""
    return bool(os.environ.get("JAXTAG_WRITE_GOLDEN"))


def read(name: str) -> str:
    """The file `name`; "" where there is none."""
    path = _FOLDER / name
    return path.read_text() if path.exists() else ""


def check(name: str, text: str) -> None:
    """Compares with the file `name`, or writes it."""
    path = _FOLDER / name
    if writing():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == read(name), f"{path} differs: see tests/perf/aot/test_golden.py"
