"""Importing the modules of the package, in any order, changes nothing in the process."""

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import csv, ctypes, faulthandler, gc, importlib, locale, logging, os, pkgutil, signal, sys, warnings

# Other libraries do change the process at import: they come first.
import absl.app, absl.flags, absl.logging, absl.testing.flagsaver
import array_record.python.array_record_module, cv2, etils.epath, flax, flax.linen, grain.python
import jax, jax.experimental.multihost_utils, ml_collections.config_flags, optax
import orbax.checkpoint, PIL.Image, safetensors.numpy, scipy.optimize, scipy.special, simplejpeg
import tensorboardX, tensorflow_datasets, tokenizers, tqdm

mallopt_calls = []

class RecordedLibrary(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "mallopt":
            mallopt_calls.append(name)
        return super().__getattr__(name)

ctypes.CDLL = RecordedLibrary

def state():
    return {
        "environment": dict(os.environ),
        "flags": sorted(absl.flags.FLAGS),
        "flags are parsed": absl.flags.FLAGS.is_parsed(),
        "warnings": list(warnings.filters),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "faulthandler": faulthandler.is_enabled(),
        "gc": (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()),
        "mallopt": list(mallopt_calls),
        "logging": (list(logging.root.handlers), logging.root.level, absl.logging.get_verbosity()),
        "jax": {name: getattr(jax.config, name) for name in (
            "jax_platforms", "jax_compilation_cache_dir", "jax_default_matmul_precision",
            "jax_enable_x64", "jax_threefry_partitionable", "jax_cpu_collectives_implementation",
        )},
        "backends": list(jax._src.xla_bridge._backends),
        "OpenCV's threads": cv2.getNumThreads(),
        "csv": csv.field_size_limit(),
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
        "arguments": list(sys.argv),
        "output": (sys.stdout.errors, sys.stderr.errors),
    }

before = state()
import jaxtag
names = [module.name for module in pkgutil.walk_packages(jaxtag.__path__, "jaxtag.")]
assert {"jaxtag.train", "jaxtag.weights.__main__", "jaxtag.configs.coco_caption"} <= set(names)
for name in sorted(names, reverse="reverse" in sys.argv):
    importlib.import_module(name)
    after = state()
    changed = [(key, before[key], after[key]) for key in before if before[key] != after[key]]
    assert not changed, (name, changed)
print(len(names), "modules")
"""


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_importing_changes_nothing(order):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, order],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("modules\n")
