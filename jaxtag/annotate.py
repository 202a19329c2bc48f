"""Captions or tags images: files, folders, glob patterns.

    python -m jaxtag.annotate --workdir=runs/coco --output=captions.jsonl photos/ 'more/*.png'

Writes a line for each image, in the order given. A captioner writes {"file": …, "caption": …,
"score": …}; the score is the caption's log-probability, with beam search divided by its length
penalty. A classifier writes {"file": …, "tags": [{"tag": …, "score": …}, …]}: the likeliest classes
and their probabilities. A tagger writes the tags whose calibrated scores reach a threshold, and at
least the likeliest one. An embedder writes {"file": …, "embedding": […]}, a vector of length 1. An
image that cannot be read gets {"file": …, "error": …}, and the run continues. The output appears
when it is complete; until then its lines are in OUTPUT.….partial. A device or pipe, such as
/dev/stdout, is written to directly. In a folder, links are followed; system files and files that
are no pictures are left out, and counted. Exit status 1: a sidecar could not be written.

Several runs, --workdir=A --workdir=B, are merged: the tags of all, each with its highest score, and
the caption of the first captioner.

With --index=DIR, an index of jaxtag.index, an image gets the tags of its nearest neighbors there.
It can be given alone, or beside --workdir: a tag that the model knows then gets the mean of both
scores (0 where one does not name it), a tag that is newer than the model the index's score.

Other outputs: --csv=FILE, a table; --sidecars, keywords beside each image for photo programs, where
what somebody wrote stays; --gallery=DIR, a page to browse that can be searched by tag. The lines
and the table, corrected by hand or not, are read by jaxtag.prepare, jaxtag.index and, of captions,
by jaxtag.evaluate --results.
"""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from jaxtag import cli
from jaxtag.config import flags as config_flags
from jaxtag.config import schema
from jaxtag.config.schema import Config
from jaxtag.data import files
from jaxtag.distributed import compilation_cache
from jaxtag.errors import UsageError, printable
from jaxtag.inference import predictor, writers
from jaxtag.storage import atomic_file
from jaxtag.tag_index import predict
from jaxtag.tasks.base import Row

_INDEX_TAGS = 5  # of an index alone
_MERGED_TAGS = 30  # of an index beside a model

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_multi_string(
        "workdir", [], "Folder of a run of jaxtag.train; several times for several runs."
    )
    flags.DEFINE_string("index", None, "Folder of a tag index (see jaxtag.index).")
    flags.DEFINE_string("output", None, "File to write, JSON lines.")
    flags.DEFINE_string("csv", None, "Table to write too: file, tags and scores or caption, error.")
    flags.DEFINE_string(
        "gallery", None, "Folder to write too: a page, index.html, that can be searched by tag."
    )
    flags.DEFINE_bool(
        "sidecars", False, "Write IMAGE.xmp beside each image: keywords for photo programs."
    )
    flags.DEFINE_float(
        "min_score",
        None,
        "Score that a tag needs to become a keyword in a sidecar file; default: 0.5, and 0 with a "
        "tagger, whose tags have thresholds of their own.",
    )
    flags.DEFINE_integer(
        "top_k",
        None,
        "Tags of each image, whatever their scores; by default those that reach their thresholds, "
        "a classifier's 5 likeliest classes, 5 of an index alone.",
        lower_bound=1,
    )
    flags.DEFINE_bool("all_scores", False, "Every tag of each image with its score.")
    flags.DEFINE_string("step", "newest", "Checkpoint: newest, best, or its step.")


def main(paths: list[str]) -> int:
    if not ((FLAGS.workdir or FLAGS.index) and FLAGS.output and paths):
        raise UsageError(
            "usage: jaxtag.annotate --workdir=DIR [--index=DIR] --output=FILE.jsonl PATH… "
            "(or --index alone)"
        )
    output, left_out = Path(FLAGS.output), Counter[str]()
    configs = _configs()
    config = configs[0] if configs else Config()  # an index alone has no run
    names = _without_own(files.list_files(paths, left_out), output)
    if left_out:
        print(f"left out: {files.describe_left_out(left_out)}", file=sys.stderr)
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    models = [
        predictor.load(Path(workdir), run_config, FLAGS.step)
        for workdir, run_config in zip(FLAGS.workdir, configs, strict=True)
    ]
    rows, errors = _rows(models, names), 0
    with contextlib.ExitStack() as stack:
        outputs = _writers(stack, output, config, models)
        bar = stack.enter_context(
            tqdm(total=len(names), unit="image", disable=not sys.stderr.isatty())
        )
        for row in rows:
            for writer in outputs:
                writer.write(row)
            errors += "error" in row
            bar.update()
        for writer in outputs:
            writer.close()
    print(
        f"{len(names) - errors} pictures annotated, {errors} could not be read: "
        f"{printable(str(output))}",
        file=sys.stderr if atomic_file.is_stream(output) else sys.stdout,
    )
    sidecars = [writer for writer in outputs if isinstance(writer, writers.XmpWriter)]
    return 1 if any(writer.num_failed for writer in sidecars) else 0


def _configs() -> list[Config]:
    """The configuration of each run, one of them changed by --config."""
    saved = [schema.load(Path(workdir)) for workdir in FLAGS.workdir]
    if len(saved) < 2:
        return [schema.check(FLAGS.config or config) for config in saved]
    if FLAGS.config not in (None, saved[-1]):
        raise UsageError("--config changes one run: give one --workdir")
    return [schema.check(config) for config in saved]


def _rows(models: Sequence[predictor.Predictor], names: list[str]) -> Iterator[Row]:
    """A row for each file, by the models, the index or both."""
    top_k = sys.maxsize if FLAGS.all_scores else FLAGS.top_k
    if not models:
        return predict.predict_tags(Path(FLAGS.index), names, top_k or _INDEX_TAGS)
    rows = _merged([model.predict_rows(names, top_k) for model in models])
    if not FLAGS.index:
        return rows
    model_tags = {tag for model in models for tag in getattr(model.vocabulary, "names", ())}
    max_tags = top_k or _MERGED_TAGS
    neighbors = predict.predict_tags(Path(FLAGS.index), names, max_tags)
    return predict.merge_predictions(rows, neighbors, model_tags, max_tags)


def _merged(results: Sequence[Iterator[Row]]) -> Iterator[Row]:
    """The rows of several models as one: all tags, each with its highest score; other fields."""
    if len(results) == 1:
        return results[0]
    return map(_merge, zip(*results, strict=True))


def _merge(rows: tuple[Row, ...]) -> Row:
    scores: dict[str, float] = {}
    for tag in (tag for row in rows for tag in row.get("tags", ())):
        scores[tag["tag"]] = max(tag["score"], scores.get(tag["tag"], 0.0))
    merged: Row = {}
    for row in rows:
        merged = {**row, **merged}
    if any("tags" in row for row in rows):
        ordered = sorted(scores.items(), key=lambda item: -item[1])
        merged["tags"] = [{"tag": tag, "score": score} for tag, score in ordered]
    error = next((row for row in rows if "error" in row), None)
    return error or merged


def _without_own(names: list[str], output: Path) -> list[str]:
    """`names` without the files that this or an earlier run wrote among the images."""
    outputs = [Path(path) for path in (output, FLAGS.csv) if path]
    own = {
        os.path.realpath(p) for path in outputs for p in (path, *atomic_file.stale_partials(path))
    }
    gallery = os.path.join(os.path.realpath(FLAGS.gallery), "") if FLAGS.gallery else None
    sidecars = {f"{name}.xmp" for name in names}

    def is_own(name: str) -> bool:
        path = os.path.realpath(name)
        in_gallery = gallery is not None and path.startswith(gallery)
        return path in own or in_gallery or name in sidecars

    return [name for name in names if not is_own(name)]


def _writers(
    stack: contextlib.ExitStack,
    output: Path,
    config: Config,
    models: Sequence[predictor.Predictor],
) -> list[writers.PredictionWriter]:
    """The writers that the flags name; `stack` gives up what is not finished."""
    outputs: list[writers.PredictionWriter] = []

    def add(writer: writers.PredictionWriter) -> None:
        stack.callback(writer.abort)
        outputs.append(writer)

    add(writers.JsonlWriter(output))
    if FLAGS.csv:
        add(writers.CsvWriter(Path(FLAGS.csv)))
    if FLAGS.sidecars:
        min_score = FLAGS.min_score
        if min_score is None:  # thresholds have selected the tags of a tagger already
            selected = any(model.task.selects_tags for model in models)
            min_score = 0.0 if selected and not FLAGS.all_scores else 0.5
        add(writers.XmpWriter(min_score))
    if FLAGS.gallery:
        add(writers.GalleryWriter(Path(FLAGS.gallery), config.data.num_threads))
    return outputs


def run() -> None:
    cli.run(main, define_flags, positional=True)


if __name__ == "__main__":
    run()
