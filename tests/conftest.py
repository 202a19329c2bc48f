"""What every test needs: 8 CPU devices, a compilation cache, and where the real data lie."""

import os
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "jaxtag-test-compilation-cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402
from absl import flags  # noqa: E402

if not flags.FLAGS.is_parsed():  # grain's worker processes read absl flags
    flags.FLAGS(["pytest"])


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets named by $JAXTAG_TEST_DATA; the test is skipped without it."""
    folder = os.environ.get("JAXTAG_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real data: set JAXTAG_TEST_DATA to the folder that holds them")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data directory with the data set `tiny`: 24 coloured pictures with two captions each."""
    import json

    from PIL import Image

    from jaxtag.data import builders

    source = tmp_path_factory.mktemp("tiny_source")
    colours = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
    lines = []
    for number in range(24):
        name, colour = list(colours.items())[number % 3]
        size = 40 + number
        picture = Image.new("RGB", (size, 48), colour)
        picture.paste((250, 250, 250), (0, 0, 10 + number // 3, 20))
        picture.save(source / f"{number:02}.jpg", quality=90)
        for caption in (f"a {name} field", f"picture {number // 3} is {name}"):
            split = "validation" if number >= 16 else "train"
            lines.append({"file": f"{number:02}.jpg", "caption": caption, "split": split})
    (source / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path_factory.mktemp("tiny_data")
    builders.prepare("tiny", source, folder)
    return folder
