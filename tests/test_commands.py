"""What all commands do before they begin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ACCELERATORS = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("accel[0-9]*")]

# Page faults of making a large array twice.
_TWICE = """
import resource, sys
from jaxtag import cli
if sys.argv[1] == "kept":
    cli._keep_freed_memory()
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""


@pytest.mark.skipif(bool(_ACCELERATORS), reason="for machines without accelerators")
def test_freed_memory_is_used_again_without_asking_the_system():
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "GLIBC_TUNABLES")}

    def faults(how: str) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", _TWICE, how],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return [int(word) for word in done.stdout.split()]

    first, second = faults("given back")
    if second < first / 2:
        pytest.skip("this C library keeps freed memory by itself")
    first, second = faults("kept")
    assert second < first / 10
