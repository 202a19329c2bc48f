"""Opens a page in Chromium without a window, and returns what its scripts made of it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def dump_dom(page: Path, home: Path, milliseconds: int = 3000, query: str = "") -> str:
    """The elements of a page, as HTML, after so many milliseconds of its own clock.

    Args:
        page: The file.
        home: A folder for the browser's files.
        milliseconds: That its scripts have.
        query: What follows the address.
    """
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]
    options += [f"--virtual-time-budget={milliseconds}", f"--user-data-dir={home}/browser"]
    done = subprocess.run(
        [str(BROWSER), *options, "--dump-dom", f"{page.as_uri()}{query}"],
        capture_output=True,
        timeout=300,
        env={**os.environ, "HOME": str(home)},
        check=True,
    )
    return done.stdout.decode()
