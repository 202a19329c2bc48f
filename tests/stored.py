"""Where the expectations made with other libraries are stored."""

from pathlib import Path

REFERENCES = Path(__file__).parent / "references"
