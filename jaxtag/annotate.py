"""Captions or tags images: files, folders, glob patterns.

    python -m jaxtag.annotate --workdir=runs/coco --output=captions.jsonl photos/ 'more/*.png'

Writes a line for each image, in the order given. A captioner writes {"file": …, "caption": …,
"score": …}; the score is the caption's log-probability, with beam search divided by its length
penalty. A classifier writes {"file": …, "tags": [{"tag": …, "score": …}, …]}: the likeliest classes
and their probabilities. A tagger writes the tags whose calibrated scores reach a threshold, and at
least the likeliest one. An embedder writes {"file": …, "embedding": […]}, a vector of length 1. An
image that cannot be read gets {"file": …, "error": …}, and the run continues. The output appears
when it is complete; until then its lines are in OUTPUT.partial.

With --index=DIR, an index of jaxtag.index, an image gets the tags of its nearest neighbors there.
It can be given alone, or beside --workdir: a tag that the model knows then gets the mean of both
scores (0 where one does not name it), a tag that is newer than the model the index's score.

Other outputs: --csv=FILE, a table; --sidecars, keywords beside each image for photo programs;
--gallery=DIR, a page to browse that can be searched by tag.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from jaxtag import cli
from jaxtag.config import flags as config_flags
from jaxtag.config import schema
from jaxtag.config.schema import Config
from jaxtag.data import files
from jaxtag.distributed import compilation_cache
from jaxtag.errors import UsageError
from jaxtag.inference import predictor, writers
from jaxtag.storage import atomic_file
from jaxtag.tag_index import predict

_INDEX_TAGS = 5  # of an index alone
_MERGED_TAGS = 30  # of an index beside a model

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_string("workdir", None, "Folder of a run of jaxtag.train.")
    flags.DEFINE_string("index", None, "Folder of a tag index (see jaxtag.index).")
    flags.DEFINE_string("output", None, "File to write, JSON lines.")
    flags.DEFINE_string("csv", None, "Table to write too: file, tags, scores, caption, error.")
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
    flags.DEFINE_string("step", "newest", "Checkpoint: newest, best, or its step.")


def main(paths: list[str]) -> None:
    if not ((FLAGS.workdir or FLAGS.index) and FLAGS.output and paths):
        raise UsageError(
            "usage: jaxtag.annotate --workdir=DIR [--index=DIR] --output=FILE.jsonl PATH… "
            "(or --index alone)"
        )
    output, model, config = Path(FLAGS.output), None, Config()  # an index alone has no run
    if FLAGS.workdir:
        config = schema.check(FLAGS.config or schema.load(Path(FLAGS.workdir)))
    names = _without_own(files.list_files(paths), output)
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    if FLAGS.workdir:
        model = predictor.load(Path(FLAGS.workdir), config, FLAGS.step)
    rows = _rows(model, names)
    errors, outputs = 0, _writers(output, config, model)
    with tqdm(total=len(names), unit="image", disable=not sys.stderr.isatty()) as bar:
        for row in rows:
            for writer in outputs:
                writer.write(row)
            errors += "error" in row
            bar.update()
    for writer in outputs:
        writer.close()
    print(f"{len(names) - errors} pictures annotated, {errors} could not be read: {output}")


def _rows(model: predictor.Predictor | None, names: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each file, by the model, the index or both."""
    if model is None:
        return predict.predict_tags(Path(FLAGS.index), names, FLAGS.top_k or _INDEX_TAGS)
    rows = model.predict_rows(names, FLAGS.top_k)
    if not FLAGS.index:
        return rows
    model_tags = getattr(model.vocabulary, "names", ())
    max_tags = FLAGS.top_k or _MERGED_TAGS
    neighbors = predict.predict_tags(Path(FLAGS.index), names, max_tags)
    return predict.merge_predictions(rows, neighbors, model_tags, max_tags)


def _without_own(names: list[str], output: Path) -> list[str]:
    """`names` without the files that this or an earlier run wrote among the images."""
    outputs = [Path(path) for path in (output, FLAGS.csv) if path]
    own = {os.path.realpath(p) for path in outputs for p in (path, atomic_file.partial_path(path))}
    gallery = os.path.join(os.path.realpath(FLAGS.gallery), "") if FLAGS.gallery else None
    sidecars = {f"{name}.xmp" for name in names}

    def is_own(name: str) -> bool:
        path = os.path.realpath(name)
        in_gallery = gallery is not None and path.startswith(gallery)
        return path in own or in_gallery or name in sidecars

    return [name for name in names if not is_own(name)]


def _writers(
    output: Path, config: Config, model: predictor.Predictor | None
) -> list[writers.PredictionWriter]:
    """The writers that the flags name."""
    outputs: list[writers.PredictionWriter] = [writers.JsonlWriter(output)]
    if FLAGS.csv:
        outputs.append(writers.CsvWriter(Path(FLAGS.csv)))
    if FLAGS.sidecars:
        min_score = FLAGS.min_score
        if min_score is None:  # thresholds have selected the tags of a tagger already
            selected = model is not None and model.task.selects_tags
            min_score = 0.0 if selected else 0.5
        outputs.append(writers.XmpWriter(min_score))
    if FLAGS.gallery:
        outputs.append(writers.GalleryWriter(Path(FLAGS.gallery), config.data.num_threads))
    return outputs


def run() -> None:
    cli.run(main, define_flags, positional=True)


if __name__ == "__main__":
    run()
