"""Captions or tags pictures: files, folders, patterns.

    python -m jaxtag.annotate --workdir=runs/coco --output=captions.jsonl photos/ 'more/*.png'

Writes a line for each picture, in the order given. A captioner says {"file": …, "caption": …,
"score": …}; the score is the caption's log-probability, with beam search divided by its length
penalty. A classifier says {"file": …, "tags": [{"tag": …, "score": …}, …]}: the likeliest classes
and their probabilities. A tagger says so of the tags whose calibrated scores reach a threshold,
and at least of the likeliest one. An embedder says {"file": …, "embedding": […]}, a vector of
length 1. A picture that cannot be read gets {"file": …, "error": …}, and the run goes on. The
output appears when all is done; until then lines are in OUTPUT.partial.

With --index=DIR, an index of jaxtag.index, a picture's tags are those of its nearest neighbours
there; it can be given alone, or beside --workdir: a tag that the model knows then has the mean of
both scores (0 where one does not name it), a tag that came after training the index's.

Besides: --csv=FILE, a table; --sidecars, keywords beside each picture for photo programs;
--gallery=DIR, a page to look through that can be searched by tag.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from tqdm import tqdm

from jaxtag import cli
from jaxtag.config import flags as config_flags
from jaxtag.config import schema
from jaxtag.config.schema import Config
from jaxtag.data import files, pipeline
from jaxtag.data.labels import LabelNames
from jaxtag.distributed import compilation_cache
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError
from jaxtag.inference import predictor, writers
from jaxtag.storage import atomic_file
from jaxtag.tag_index import predict as indexed
from jaxtag.tasks import TASKS
from jaxtag.tasks.caption import evaluator as captions
from jaxtag.tasks.tag import evaluator as tags
from jaxtag.tasks.tag.calibration import TagCalibration

_TAGS = 5  # likeliest classes that are told
_MOST_TAGS = 30  # of a picture, by a tagger

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_string("workdir", None, "Folder of a run of jaxtag.train.")
    flags.DEFINE_string("index", None, "Folder of a tag index (see jaxtag.index).")
    flags.DEFINE_string("output", None, "File to write, JSON lines.")
    flags.DEFINE_string("csv", None, "Table to write besides: file, tags, scores, caption, error.")
    flags.DEFINE_string(
        "gallery", None, "Folder to write besides: a page, index.html, that can be searched by tag."
    )
    flags.DEFINE_bool(
        "sidecars", False, "Write PICTURE.xmp beside each picture: keywords for photo programs."
    )
    flags.DEFINE_float(
        "min_score",
        None,
        "Score that a tag needs to become a keyword in a sidecar file; default: 0.5, and 0 with a "
        "tagger, whose tags have thresholds of their own.",
    )
    flags.DEFINE_string("step", "newest", "Checkpoint: newest, best, or its step.")


def main(paths: list[str]) -> None:
    if not ((FLAGS.workdir or FLAGS.index) and FLAGS.output and paths):
        raise UsageError(
            "usage: jaxtag.annotate --workdir=DIR [--index=DIR] --output=FILE.jsonl PATH… "
            "(or --index alone)"
        )
    output = Path(FLAGS.output)
    config = Config()  # an index alone is of no run
    if FLAGS.workdir:
        config = schema.check(FLAGS.config or schema.load(Path(FLAGS.workdir)))
    names = _without_own(files.list_files(paths), output)
    if config.compilation_cache:
        compilation_cache.use_compilation_cache()
    found = _found(config, names)
    bad, outputs = 0, _writers(output, config)
    with tqdm(total=len(names), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for line in found:
            for one in outputs:
                one.add(line)
            bad += "error" in line
            bar.update()
    for one in outputs:
        one.finish()
    print(f"{len(names) - bad} pictures annotated, {bad} could not be read: {output}")


def _found(config: Config, names: list[str]) -> Iterator[dict[str, Any]]:
    """A line for each file, by the model, the index or both."""
    if not FLAGS.workdir:
        return indexed.tagged(Path(FLAGS.index), names, _TAGS)
    model = predictor.load(Path(FLAGS.workdir), config, FLAGS.step)
    found = annotate(model, names)
    if not FLAGS.index:
        return found
    known = model.vocabulary.names if isinstance(model.vocabulary, LabelNames) else ()
    near = indexed.tagged(Path(FLAGS.index), names, _MOST_TAGS)
    return indexed.together(found, near, known, _MOST_TAGS)


def _without_own(names: list[str], output: Path) -> list[str]:
    """`names` less what this or an earlier run wrote among the pictures."""
    written = [Path(path) for path in (output, FLAGS.csv) if path]
    own = {os.path.realpath(p) for path in written for p in (path, atomic_file.partial_path(path))}
    gallery = os.path.join(os.path.realpath(FLAGS.gallery), "") if FLAGS.gallery else None
    sidecars = {f"{name}.xmp" for name in names}

    def is_own(name: str) -> bool:
        path = os.path.realpath(name)
        in_gallery = gallery is not None and path.startswith(gallery)
        return path in own or in_gallery or name in sidecars

    return [name for name in names if not is_own(name)]


def _writers(output: Path, config: Config) -> list[Any]:
    """What the flags ask for."""
    found: list[Any] = [writers.JsonlWriter(output)]
    if FLAGS.csv:
        found.append(writers.CsvWriter(Path(FLAGS.csv)))
    if FLAGS.sidecars:
        usual = 0.0 if config.task == "tag" else 0.5
        found.append(writers.XmpWriter(usual if FLAGS.min_score is None else FLAGS.min_score))
    if FLAGS.gallery:
        found.append(writers.GalleryWriter(Path(FLAGS.gallery), config.data.num_threads))
    return found


def annotate(model: predictor.Trained, names: list[str]) -> Iterator[dict[str, Any]]:
    """A line for each file, in order; memory does not grow with their number.

    Raises:
      UsageError: at once, where the settings of decoding do not fit the model.
    """
    config = model.config
    describe = _DESCRIBERS[config.task](model)
    shards = model.mesh.shape["data"]
    size = min(config.evaluation.batch_size, len(names))
    size = -(-size // shards) * shards  # a whole number of rows for each device
    batches = pipeline.file_batches(
        names,
        image=TASKS[config.task].example(config, model.vocabulary, train=False).image,
        batch_size=size,
        workers=config.data.num_workers,
        threads=config.data.num_threads,
    )
    return _described(model, describe, batches)


# (batch on the devices, random key) → what is said of each row
Describer = Callable[[dict[str, jax.Array], jax.Array], list[dict[str, Any]]]


def _described(
    model: predictor.Trained, describe: Describer, batches: pipeline.BatchIterator
) -> Iterator[dict[str, Any]]:
    key = jax.random.key(model.config.seed)
    for number, batch in enumerate(batches):
        where, errors = batch.pop("file"), batch.pop("error")
        arrays = meshes.make_global_batch(batch, model.mesh)
        found = describe(arrays, jax.random.fold_in(key, number))
        for row in np.flatnonzero(batch["index"] >= 0):
            if errors[row]:
                yield {"file": where[row], "error": errors[row]}
            else:
                yield {"file": where[row], **found[row]}
    batches.close()


def _captions(model: predictor.Trained) -> Describer:
    generate = captions.caption_generator(model.task, model.config, model.vocabulary)

    def describe(batch: dict[str, jax.Array], key: jax.Array) -> list[dict[str, Any]]:
        found = jax.device_get(generate(model.variables, batch, key))
        texts = model.vocabulary.decode_batch(found["tokens"])
        scores = [round(float(score), 4) for score in found["scores"]]
        return [{"caption": t, "score": s} for t, s in zip(texts, scores, strict=True)]

    return describe


def _classes(model: predictor.Trained) -> Describer:
    names = model.vocabulary.names
    predict = jax.jit(model.task.predict)

    def describe(batch: dict[str, jax.Array], _: jax.Array) -> list[dict[str, Any]]:
        rows = []
        for chances in jax.device_get(predict(model.variables, batch)):
            order = np.argsort(-chances, kind="stable")[:_TAGS]
            tags = [{"tag": names[i], "score": round(float(chances[i]), 4)} for i in order]
            rows.append({"tags": tags})
        return rows

    return describe


def _any_tags(model: predictor.Trained) -> Describer:
    names, predict = model.vocabulary.names, jax.jit(model.task.predict)
    decisions = model.task.decisions
    if decisions is None:
        logging.warning(
            "no thresholds were chosen for step %d, 0.5 is taken: jaxtag.evaluate chooses them",
            model.step,
        )
        decisions = TagCalibration.plain(len(names))

    def describe(batch: dict[str, jax.Array], _: jax.Array) -> list[dict[str, Any]]:
        rows = []
        for scores in jax.device_get(predict(model.variables, batch)):
            given = tags.given_tags(scores, decisions, _MOST_TAGS)
            found = [{"tag": names[i], "score": round(float(scores[i]), 4)} for i in given]
            rows.append({"tags": found})
        return rows

    return describe


def _embeddings(model: predictor.Trained) -> Describer:
    embed = jax.jit(model.task.embed)

    def describe(batch: dict[str, jax.Array], _: jax.Array) -> list[dict[str, Any]]:
        vectors = jax.device_get(embed(model.variables, batch["image"]))
        return [{"embedding": [round(float(x), 6) for x in vector]} for vector in vectors]

    return describe


_DESCRIBERS = {
    "caption": _captions,
    "classify": _classes,
    "embed": _embeddings,
    "tag": _any_tags,
}


def run() -> None:
    cli.run(main, define_flags, positional=True)


if __name__ == "__main__":
    run()
