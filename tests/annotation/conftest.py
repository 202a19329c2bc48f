"""An album of pictures and the lines that annotate writes of it."""

from pathlib import Path

import pytest
from calling import call
from PIL import Image

NUM_IMAGES = 21


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """Small pictures of two folders, one of them damaged."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(NUM_IMAGES):
        path = folder / str(number // 16) / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (12 * number, 255 - 12 * number, 99)).save(path)
    (folder / "0" / "05.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def unbroken(tiny_run, album, tmp_path_factory) -> str:
    """The lines of a run that was never stopped."""
    output = tmp_path_factory.mktemp("unbroken") / "out.jsonl"
    assert call("annotate", f"--workdir={tiny_run}", f"--output={output}", album).status == 0
    assert [path.name for path in output.parent.iterdir()] == ["out.jsonl"]
    return output.read_text()
