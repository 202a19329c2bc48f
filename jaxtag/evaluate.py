"""Evaluates a trained model, or anyone's captions in COCO's results format.

    python -m jaxtag.evaluate --workdir=runs/shapes --split=test
    python -m jaxtag.evaluate --results=captions.json --references=captions_val2014.json

The last line on stdout is one JSON object of metrics; with --workdir it is also in
DIR/evaluation.json, there with each tag of a tagger or class of a classifier by itself, and with
the confusion matrix of a classifier. The labels of the data are matched with the model's by name; a
label that the model does not know is refused. Decoding can be changed:
--config.task.decoding.method=greedy. --predictions=FILE writes the truth and every score of every
image: JSON lines by name, npz or Parquet as arrays.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from jaxtag import cli
from jaxtag.config import flags as config_flags
from jaxtag.config import schema
from jaxtag.errors import UsageError, printable
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.paths import make_path

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    cli.define_process_flags()
    flags.DEFINE_string("workdir", None, "Folder of a run of jaxtag.train.")
    flags.DEFINE_string("split", None, "Split; by default the run's evaluation split.")
    flags.DEFINE_string("step", "newest", "Checkpoint: newest, best, or its step.")
    flags.DEFINE_string(
        "results",
        None,
        'Captions to score, JSON: [{"image_id": …, "caption": …}, …], or what jaxtag.annotate '
        "wrote: .jsonl or .csv.",
    )
    flags.DEFINE_string(
        "predictions",
        None,
        "File to write too, .jsonl, .npz or .parquet: the truth and all scores of each image.",
    )
    flags.DEFINE_string("references", None, "Reference captions, COCO's captions JSON.")


def main(_: list[str]) -> None:
    files = (FLAGS.results, FLAGS.references)
    if any(files) == bool(FLAGS.workdir) or (any(files) and not all(files)):
        raise UsageError("give either --workdir, or both --results and --references")
    if all(files):
        print(json.dumps(_score_files(*files)))
        return
    workdir = make_path(FLAGS.workdir, "--workdir")
    with cli.join_job():
        metrics = _evaluate(workdir)
        if jax.process_index() == 0:
            metrics = _finite(metrics)
            shown = {
                name: value
                for name, value in metrics.items()
                if not isinstance(value, dict) and name != "advice"
            }
            print(json.dumps(shown))  # first: should the file not be writable
            write_text(workdir / "evaluation.json", _to_json(metrics) + "\n")


def _score_files(results: str, references: str) -> dict[str, float]:
    from jaxtag.metrics.captioning import coco_format

    return coco_format.score_files(results, references)


def _evaluate(workdir: Path) -> dict[str, Any]:
    # Imported here: scoring files needs neither data sets nor a compiler.
    from jaxtag import api
    from jaxtag.distributed import compilation_cache
    from jaxtag.tasks import evaluator

    config = schema.check(FLAGS.config or schema.load(workdir))
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    metrics = api.evaluate(
        workdir, FLAGS.split, config=config, step=FLAGS.step, predictions=FLAGS.predictions
    )
    if jax.process_index() == 0:
        numbers = {n: v for n, v in metrics.items() if isinstance(v, float)}
        baselines = metrics.get("baselines", {})
        lines = [evaluator.table({"model": numbers, **baselines}), metrics.get("advice")]
        print(printable("\n".join(filter(None, lines))), file=sys.stderr)
    return metrics


def _finite(value: Any) -> Any:
    """null for the numbers that JSON has none for: NaN, infinity."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_json(value: Any, indent: str = "") -> str:
    """JSON with a line for each metric, each class and each row of a matrix."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if indent and not any(isinstance(item, dict | list) for item in items):
        return json.dumps(value)
    inner = indent + "  "
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(n)}: {_to_json(v, inner)}" for n, v in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _to_json(item, inner) for item in value) + f"\n{indent}]"


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
