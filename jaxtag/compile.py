"""Compiles a training step for hardware that this machine does not have, and reports its costs.

    python -m jaxtag.compile --config=coco_caption --topology=v5e:16x16 --output=coco.json
    python -m jaxtag.compile --config=imagenet_resnet50 --topology=h100:8 --config.batch_size=1024
    python -m jaxtag.compile --config=coco_caption:variant=L/16 --topology=v5e:4x4 --search
    python -m jaxtag.compile --config=imagenet_vit --topology=v6e:4x4 --html=vit.html
    python -m jaxtag.compile diff coco.json other.json

The step is the one that jaxtag.train runs, with the same shardings; no data are read, and nothing
is computed. TPU slices are v4, v5e, v5p and v6e with their shape, GPUs a100, h100 and h200 with
their number. XLA's compilers for them come with the extras: pip install "jaxtag[tpu]" (or [cuda]).

Printed: memory on each device and whether it fits; FLOPs and memory traffic per image; the lower
bound of a step's time by arithmetic, memory and links, and which of them binds; collectives between
the devices; parameters that are replicated on every device although the mesh splits them. --html
writes a page with each kernel and collective on a timeline.
"""

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from absl import flags

from jaxtag import cli
from jaxtag.config import flags as config_flags
from jaxtag.config import serialization
from jaxtag.config.schema import Config
from jaxtag.errors import UsageError
from jaxtag.perf import compiled as xla
from jaxtag.perf import page, step_inputs
from jaxtag.perf.aot import analyze, autotune, diff, lower, tables, topologies
from jaxtag.storage.atomic_file import write_bytes, write_text
from jaxtag.training import run_data

FLAGS = flags.FLAGS
_REPORT_EVERY = 10.0  # seconds


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_string("topology", None, "What to compile for, as v5e:16x16 or h100:8.")
    flags.DEFINE_integer("slices", 1, "Slices of that topology.", lower_bound=1)
    flags.DEFINE_integer(
        "num_classes", None, "Classes or tags of a data set that is not built in.", lower_bound=1
    )
    cli.define_alias("words", "num_classes")
    flags.DEFINE_string("output", None, "File for the analysis, as JSON.")
    flags.DEFINE_string("html", None, "File for a page with the kernels and a timeline.")
    flags.DEFINE_string("hlo", None, "File for the text of the optimized program.")
    flags.DEFINE_string("executable", None, "File for the program, as XLA stores it.")
    flags.DEFINE_bool(
        "search",
        False,
        "Find the batch size, config.model.remat, mesh and config.xla_options with the most "
        "images/s.",
    )


def main(argv: list[str]) -> None:
    if argv:
        _diff(argv[1:])
    else:
        _compile()


def _diff(files: list[str]) -> None:
    if len(files) != 2:
        raise UsageError("usage: jaxtag.compile diff OLD.json NEW.json (files of --output)")
    old, new = map(diff.load, files)
    print(diff.table(old, new))


def _compile() -> None:
    topologies.prepare_process()
    config = cli.required_config()
    config = run_data.task_class(config).with_pretrained(config)
    cli.require("topology", ", such as --topology=v5e:16x16 or --topology=h100:8")
    topology = topologies.parse(FLAGS.topology, FLAGS.slices)
    num_outputs = FLAGS.num_classes or step_inputs.num_outputs(config)
    devices = topologies.devices(topology)

    def compile_and_analyze(config: Config) -> dict[str, Any]:
        """The analysis of a configuration; but for a search, writes what flags ask for too."""
        settings = {
            "topology": topology.name,
            "slices": topology.slices,
            "config": serialization.to_dict(config),
        }
        lowered = lower.lower(lower.plan(config, num_outputs, devices))
        try:
            with _progress():
                compiled = lower.compile_step(lowered)
        except lower.DoesNotFitError as error:
            return {**settings, **analyze.analyze_failure(lowered, error, topology.chip)}
        result = {**settings, **analyze.analyze(compiled, topology)}
        if not FLAGS.search:
            _write_program(compiled, topology, result)
        return result

    result: dict[str, Any]
    if FLAGS.search:
        trials = autotune.search(config, len(devices), compile_and_analyze, report=_report)
        print(autotune.table(trials))
        result = {"tried": [dataclasses.asdict(trial) for trial in trials]}
    else:
        result = compile_and_analyze(config)
        print(tables.table(result, topology))
    if FLAGS.output:
        write_text(FLAGS.output, json.dumps(result, indent=2) + "\n")


def _write_program(
    compiled: lower.Compiled, topology: topologies.Topology, result: dict[str, Any]
) -> None:
    """Writes the program's page, text and executable where the flags ask for them."""
    if FLAGS.html:
        data = analyze.page_data(compiled, topology, result)
        write_text(FLAGS.html, page.render("program", data))
    if FLAGS.hlo:
        write_text(FLAGS.hlo, xla.text(compiled.program))
    if FLAGS.executable:
        executable = compiled.program.runtime_executable()
        assert executable is not None, "this backend has no executable"
        write_bytes(FLAGS.executable, executable.serialize())


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """Says on stderr every ten seconds that it still compiles."""
    ended, began = threading.Event(), time.perf_counter()

    def report() -> None:
        while not ended.wait(_REPORT_EVERY):
            _report(f"compiling: {time.perf_counter() - began:.0f} s")

    thread = threading.Thread(target=report, name="compile progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _report(line: str) -> None:
    print(line, file=sys.stderr)


def run() -> None:
    cli.run(main, define_flags, positional=True, subcommands=("diff",), subcommand_required=False)


if __name__ == "__main__":
    run()
