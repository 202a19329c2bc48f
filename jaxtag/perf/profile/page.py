"""The profile as one HTML page that needs no server and no network."""

import json
from importlib import resources
from pathlib import Path

from jaxtag.perf.profile.report import Profile

_PLACE = "/* profile */"


def write(profile: Profile, folder: Path) -> None:
    """Writes FOLDER/profile.html. What the profile says enters the page as text."""
    page = resources.files("jaxtag.perf.profile").joinpath("page.html").read_text("utf-8")
    # In a script element `<` could end it.
    data = json.dumps(profile).replace("<", "\\u003c")
    (folder / "profile.html").write_text(page.replace(_PLACE, data), encoding="utf-8")
