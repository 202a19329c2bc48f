"""Texts that must not change unseen (tests/ahead/golden)."""

import os
from pathlib import Path

_FOLDER = Path(__file__).parent / "ahead" / "golden"


def check(name: str, text: str) -> None:
    """Compares with the file `name`; with JAXTAG_WRITE_GOLDEN set, writes it."""
    path = _FOLDER / name
    if os.environ.get("JAXTAG_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path} differs: see tests/ahead/test_golden.py"
