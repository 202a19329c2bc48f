"""Compiles a training step for hardware that is not there, and tells what it costs on it.

    python -m jaxtag.compile --config=coco_caption --topology=v5e:16x16 --output=coco.json
    python -m jaxtag.compile --config=imagenet_resnet50 --topology=h100:8 --config.batch_size=1024
    python -m jaxtag.compile --config=coco_caption:variant=L/16 --topology=v5e:4x4 --search

The step is the one that jaxtag.train runs, with the same shardings; no data are read, and nothing
is computed. TPU slices are v4, v5e, v5p and v6e with their shape, GPUs a100, h100 and h200 with
their number. XLA's compilers for them come with the extras: pip install "jaxtag[tpu]" (or [cuda]).

Printed: memory on each device and whether it fits; FLOPs and memory traffic an image; how long a
step takes at least by arithmetic, memory and links, and which of them binds; exchanges between the
devices; parameters that are whole on every device although the mesh splits them.
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags

from jaxtag import cli
from jaxtag.perf.aot import environment

environment.prepare()  # before JAX starts

from jaxtag.config import flags as config_flag  # noqa: E402
from jaxtag.config import schema as configuration  # noqa: E402
from jaxtag.datasets import published_sizes  # noqa: E402
from jaxtag.errors import UsageError, UserError  # noqa: E402
from jaxtag.perf.aot import analyze, autotune, lower, tables, topologies  # noqa: E402

_CONFIG = config_flag.define()
_TOPOLOGY = flags.DEFINE_string("topology", None, "What to compile for, as v5e:16x16 or h100:8.")
_SLICES = flags.DEFINE_integer("slices", 1, "Slices of that topology.", lower_bound=1)
_WORDS = flags.DEFINE_integer(
    "words", None, "Classes or tags of a data set that is not built in.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string("output", None, "File for what was found, as JSON.")
_HLO = flags.DEFINE_string("hlo", None, "File for the text of the optimised program.")
_EXECUTABLE = flags.DEFINE_string("executable", None, "File for the program, as XLA stores it.")
_SEARCH = flags.DEFINE_bool(
    "search", False, "Find the batch size, config.model.remat and mesh with the most images/s."
)


def main(_: list[str]) -> int:
    if _CONFIG.value is None:
        raise UsageError(f"--config is missing (there are: {', '.join(config_flag.names())})")
    if _TOPOLOGY.value is None:
        raise UsageError("--topology is missing, such as --topology=v5e:16x16 or --topology=h100:8")
    config = configuration.check(_CONFIG.value)
    topology = topologies.parse(_TOPOLOGY.value, _SLICES.value)
    words = _WORDS.value or published_sizes.words(config)
    devices = topologies.devices(topology)

    def attempt(config: configuration.Config) -> dict:
        lowered = lower.lower(lower.plan(config, words, devices), words)
        try:
            compiled = lower.compile_step(lowered)
        except lower.DoesNotFit as error:
            return analyze.read_failure(lowered, error, topology.chip)
        if not _SEARCH.value:
            _keep(compiled)
        return analyze.read(compiled, topology)

    if _SEARCH.value:
        tried = autotune.best(config, len(devices), attempt, say=_say)
        print(autotune.table(tried))
        found = {"tried": [dataclasses.asdict(trial) for trial in tried]}
    else:
        found = {"topology": topology.name, "slices": topology.slices, **attempt(config)}
        print(tables.table(found, topology))
    if _OUTPUT.value:
        _write(_OUTPUT.value, (json.dumps(found, indent=2) + "\n").encode())
    return 0


def _keep(compiled: lower.Compiled) -> None:
    """Writes the program where that was asked for."""
    if _HLO.value:
        _write(_HLO.value, compiled.program.as_text().encode())
    if _EXECUTABLE.value:
        _write(_EXECUTABLE.value, compiled.program.runtime_executable().serialize())


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _write(path: str, content: bytes) -> None:
    partial = Path(f"{path}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    cli.run(main)
