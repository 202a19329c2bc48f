"""Evaluates a trained model, or anyone's captions in COCO's results format.

    python -m jaxtag.evaluate --workdir=runs/shapes --split=test
    python -m jaxtag.evaluate --model=hf:owner/name --dataset=my_classes
    python -m jaxtag.evaluate --workdir=runs/coco_match --dataset=corel5k --zero_shot
    python -m jaxtag.evaluate --results=captions.json --references=captions_val2014.json

--model is any REF (see jaxtag.annotate); --workdir says the same. The last line on stdout is one
JSON object of metrics; of a run it is also in DIR/evaluation.json, there with each tag of a tagger
or class of a classifier by itself, and with the confusion matrix of a classifier. The labels of the
data are matched with the model's by name; a label that the model does not know is refused. Decoding
can be changed: --config.task.decoding.method=greedy. --predictions=FILE writes the truth and every
score of every image: JSON lines by name, npz or Parquet as arrays.
"""

import json
import math
import sys
from typing import Any

import jax
from absl import flags

from jaxtag import cli
from jaxtag.config import checks, serialization
from jaxtag.config import flags as config_flags
from jaxtag.config.schema import Config
from jaxtag.errors import UsageError, printable
from jaxtag.storage.atomic_file import write_text
from jaxtag.storage.paths import make_path

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    cli.define_process_flags()
    flags.DEFINE_string("model", None, "REF of a model: a work directory, hf:owner/name, ….")
    flags.DEFINE_string("workdir", None, "The same, of the folder of a run.")
    flags.DEFINE_string("dataset", None, "Data set; by default the run's.")
    flags.DEFINE_string("data_dir", None, "Where data sets are kept; by default as the run says.")
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
    flags.DEFINE_bool(
        "zero_shot",
        False,
        "Evaluate a model of images and texts as a classifier or tagger of the data set's names.",
    )
    flags.DEFINE_multi_string(
        "prompt", None, "Text with {} for a name, may be given several times; by default several."
    )
    flags.DEFINE_string("references", None, "Reference captions, COCO's captions JSON.")


def main(_: list[str]) -> None:
    files = (FLAGS.results, FLAGS.references)
    if FLAGS.model and FLAGS.workdir:
        raise UsageError("--model and --workdir name the same: give one")
    reference = FLAGS.model or FLAGS.workdir
    if any(files) == bool(reference) or (any(files) and not all(files)):
        raise UsageError("give either --model (or --workdir), or both --results and --references")
    if all(files):
        print(json.dumps(_score_files(*files)))
        return
    with cli.join_job():
        metrics = _evaluate(reference)
        if jax.process_index() == 0:
            metrics = _finite(metrics)
            shown = {
                name: value
                for name, value in metrics.items()
                if not isinstance(value, dict) and name != "advice"
            }
            print(json.dumps(shown))  # first: should the file not be writable
            if serialization.is_workdir(reference) and not FLAGS.zero_shot:
                write_text(make_path(reference) / "evaluation.json", _to_json(metrics) + "\n")


def _score_files(results: str, references: str) -> dict[str, float]:
    from jaxtag.metrics.captioning import coco_format

    return coco_format.score_files(results, references)


def _evaluate(reference: str) -> dict[str, Any]:
    # Imported here: scoring files needs neither data sets nor a compiler.
    from jaxtag import api
    from jaxtag.distributed import compilation_cache
    from jaxtag.inference import zero_shot
    from jaxtag.tasks import evaluator

    if FLAGS.prompt and not FLAGS.zero_shot:
        raise UsageError("--prompt is of --zero_shot: give both")
    config = _config(reference)
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    metrics = api.evaluate(
        reference,
        FLAGS.split,
        config=config,
        step=FLAGS.step,
        predictions=FLAGS.predictions,
        prompts=(FLAGS.prompt or zero_shot.PROMPTS) if FLAGS.zero_shot else None,
    )
    if jax.process_index() == 0:
        numbers = {n: v for n, v in metrics.items() if isinstance(v, float)}
        baselines = metrics.get("baselines", {})
        lines = [evaluator.table({"model": numbers, **baselines}), metrics.get("advice")]
        print(printable("\n".join(filter(None, lines))), file=sys.stderr)
    return metrics


def _config(reference: str) -> Config:
    """The run's configuration; of a published checkpoint one with the data of the flags."""
    from jaxtag.weights.reference import resolve  # imports models, which scoring files needs not

    published = resolve(reference).is_published
    if published and FLAGS.dataset is None:
        raise UsageError(f"--model={reference} was not trained here: give --dataset=NAME too")
    config = Config(total_steps=0) if published else FLAGS.config or serialization.load(reference)
    config.data.dataset = FLAGS.dataset or config.data.dataset
    config.data.data_dir = FLAGS.data_dir or config.data.data_dir
    return checks.check(config)


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
