"""Evaluates a trained model, or anyone's captions in COCO's results format.

    python -m jaxtag.evaluate --workdir=runs/shapes --split=test
    python -m jaxtag.evaluate --results=captions.json --references=captions_val2014.json

The last line on stdout is one JSON object of metrics; with --workdir it is also in
DIR/evaluation.json, there with each tag of a tagger by itself. Decoding can be changed:
--config.task.decoding.method=greedy.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from jaxtag import cli
from jaxtag.config import flags as config_flags
from jaxtag.config import schema
from jaxtag.errors import UsageError, UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    cli.define_process_flags()
    flags.DEFINE_string("workdir", None, "Folder of a run of jaxtag.train.")
    flags.DEFINE_string("split", None, "Split; by default the run's evaluation split.")
    flags.DEFINE_string("step", "newest", "Checkpoint: newest, best, or its step.")
    flags.DEFINE_string(
        "results", None, 'Captions to score, JSON: [{"image_id": …, "caption": …}, …].'
    )
    flags.DEFINE_string("references", None, "Reference captions, COCO's captions JSON.")


def main(_: list[str]) -> None:
    files = (FLAGS.results, FLAGS.references)
    if any(files) == bool(FLAGS.workdir) or (any(files) and not all(files)):
        raise UsageError("give either --workdir, or both --results and --references")
    if all(files):
        print(json.dumps(_score_files(*files)))
        return
    workdir = Path(FLAGS.workdir)
    with cli.join_job():
        metrics, details = _evaluate(workdir)
        if jax.process_index() == 0:
            print(json.dumps(metrics))  # first: should it not be possible to keep them
            _keep({**metrics, **details}, workdir / "evaluation.json")


def _score_files(results: str, references: str) -> dict[str, float]:
    from jaxtag.metrics.captioning import coco_format

    return coco_format.score_files(results, references)


def _evaluate(workdir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    # Imported here: scoring files takes neither data sets nor a compiler.
    from jaxtag.data import sources
    from jaxtag.distributed import compilation_cache
    from jaxtag.inference import predictor
    from jaxtag.tasks import evaluators

    config = schema.check(FLAGS.config or schema.load(workdir))
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    model = predictor.load(workdir, config, FLAGS.step)
    split = FLAGS.split or config.data.evaluation_split
    source = sources.open_split(config.data.dataset, split, config.data.data_dir)
    evaluator = evaluators.make(model.task, model.mesh, config, model.vocabulary)
    evaluation = evaluator(model.variables, source)
    evaluators.keep(evaluation, workdir, model.step)
    metrics = {"split": split, "step": model.step, **evaluation.metrics}
    if jax.process_index() == 0:
        print(evaluators.table({"model": evaluation.metrics}), file=sys.stderr)
    return metrics, evaluators.details(evaluation)


def _keep(metrics: dict[str, Any], path: Path) -> None:
    try:
        path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
