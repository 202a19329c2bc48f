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
from jaxtag.config import flags as config_flags
from jaxtag.config import schema
from jaxtag.datasets import published_sizes
from jaxtag.errors import UserError
from jaxtag.perf.aot import analyze, autotune, environment, lower, tables, topologies

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_string("topology", None, "What to compile for, as v5e:16x16 or h100:8.")
    flags.DEFINE_integer("slices", 1, "Slices of that topology.", lower_bound=1)
    flags.DEFINE_integer(
        "num_classes", None, "Classes or tags of a data set that is not built in.", lower_bound=1
    )
    cli.define_alias("words", "num_classes")
    flags.DEFINE_string("output", None, "File for what was found, as JSON.")
    flags.DEFINE_string("hlo", None, "File for the text of the optimised program.")
    flags.DEFINE_string("executable", None, "File for the program, as XLA stores it.")
    flags.DEFINE_bool(
        "search", False, "Find the batch size, config.model.remat and mesh with the most images/s."
    )


def main(_: list[str]) -> None:
    environment.prepare()
    config = cli.required_config()
    cli.require("topology", ", such as --topology=v5e:16x16 or --topology=h100:8")
    topology = topologies.parse(FLAGS.topology, FLAGS.slices)
    num_outputs = FLAGS.num_classes or published_sizes.words(config)
    devices = topologies.devices(topology)

    def attempt(config: schema.Config) -> dict:
        lowered = lower.lower(lower.plan(config, num_outputs, devices), num_outputs)
        try:
            compiled = lower.compile_step(lowered)
        except lower.DoesNotFit as error:
            return analyze.read_failure(lowered, error, topology.chip)
        if not FLAGS.search:
            _keep(compiled)
        return analyze.read(compiled, topology)

    if FLAGS.search:
        tried = autotune.best(config, len(devices), attempt, say=_say)
        print(autotune.table(tried))
        found = {"tried": [dataclasses.asdict(trial) for trial in tried]}
    else:
        found = {"topology": topology.name, "slices": topology.slices, **attempt(config)}
        print(tables.table(found, topology))
    if FLAGS.output:
        _write(FLAGS.output, (json.dumps(found, indent=2) + "\n").encode())


def _keep(compiled: lower.Compiled) -> None:
    """Writes the program where that was asked for."""
    if FLAGS.hlo:
        _write(FLAGS.hlo, compiled.program.as_text().encode())
    if FLAGS.executable:
        _write(FLAGS.executable, compiled.program.runtime_executable().serialize())


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


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
