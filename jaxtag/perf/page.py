"""Pages of HTML that need no server and no network: a frame, a body, a script, and data."""

import json
from importlib import resources
from typing import Any


def render(name: str, data: Any) -> str:
    """A page of `perf/pages`.

    Args:
        name: Of its body and script: "profile" or "program".
        data: What its script shows, as JSON; all of it enters the page as text.
    """
    pages = resources.files("jaxtag.perf").joinpath("pages")
    page = pages.joinpath("base.html").read_text("utf-8")
    body, script = (pages.joinpath(f"{name}.{kind}").read_text("utf-8") for kind in ("html", "js"))
    page = page.replace("<!-- body -->", body).replace("<!-- script -->", script)
    text = json.dumps(data).replace("<", "\\u003c")  # `<` could end the script element
    return page.replace("<!-- data -->", text)
