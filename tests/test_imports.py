"""Importing any module of the package, in any order, changes nothing in the process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Other libraries do change the process at import: they come first. jaxtag.configs is a folder of
# the wheel alone; in the checkout its files are read from configs/.
_PROGRAM = """
import ctypes, gc, importlib, logging, os, pkgutil, signal, sys, warnings

import absl.app, absl.flags, absl.logging, absl.testing.flagsaver
import array_record.python.array_record_module, cv2, etils.epath, flax, flax.linen, grain.python
import jax, jax.experimental.multihost_utils, ml_collections.config_flags, optax
import orbax.checkpoint, PIL.Image, safetensors.numpy, scipy.optimize, scipy.special, simplejpeg
import tensorboardX, tensorflow_datasets, tensorflow_datasets.core.download, tokenizers, tqdm

import PIL.features
PIL.Image.init()

def state():
    mallinfo = []
    return {
        "environment": dict(os.environ),
        "flags": sorted(absl.flags.FLAGS),
        "flags parsed": absl.flags.FLAGS.is_parsed(),
        "warnings": list(warnings.filters),
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "gc": (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()),
        "mallopt": calls,
        "logging": (list(logging.root.handlers), logging.root.level, absl.logging.get_verbosity()),
        "jax": {n: jax.config._read(n) for n in ("jax_platforms", "jax_compilation_cache_dir")},
        "backends": list(jax._src.xla_bridge._backends),
        "threads": cv2.getNumThreads(),
        "argv": list(sys.argv),
        "stdout": sys.stdout.errors,
    }

calls = []
class Recorded(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "mallopt":
            calls.append(name)
        return super().__getattr__(name)
ctypes.CDLL = Recorded

before = state()
import jaxtag
names = [m.name for m in pkgutil.walk_packages(jaxtag.__path__, "jaxtag.")]
names += ["configs." + m.name for m in pkgutil.iter_modules(["configs"])]
assert len(names) > 100, names
for name in sorted(names, reverse="reverse" in sys.argv):
    importlib.import_module(name)
    after = state()
    assert after == before, (name, {k: (before[k], after[k]) for k in before if before[k] != after[k]})
print(len(names), "modules")
"""


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_importing_changes_nothing(order):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, order], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("modules\n")
