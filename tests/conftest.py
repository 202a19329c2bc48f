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
