"""Captions or tags images: files, folders, glob patterns.

    python -m jaxtag.annotate --workdir=runs/coco --output=captions.jsonl photos/ 'more/*.png'
    python -m jaxtag.annotate --model=efficientnet_lite0 --output=tags.jsonl photos/

--model takes a REF: the work directory of a run (--workdir says the same); a published checkpoint,
as a folder or a file of weights (safetensors, .bin, .pt, .pth, .msgpack) or as
hf:owner/name[@revision][/file]; or the name of a model whose weights an installed package brings.
What a checkpoint does not say of itself, --backbone and --labels say.

A model of images and texts (CLIP, SigLIP, a run that matches both) tags with any words:
--labels=dog,beach,… or a file of them. --calibrate_on=DATASET, a prepared data set with tags, makes
its scores probabilities.

Writes a line for each image, in the order given. A captioner writes {"file": …, "caption": …,
"score": …}; the score is the caption's log-probability, with beam search divided by its length
penalty. --captions_per_image=3 adds "captions": three that are unlike each other, the first of them
above; --word_scores adds "words": [{"word": …, "score": …}, …], the probability of each after those
before it. A classifier writes {"file": …, "tags": [{"tag": …, "score": …}, …]}: the likeliest
classes and their probabilities. A tagger writes the tags whose calibrated scores reach a threshold,
and at least the likeliest one. An embedder writes {"file": …, "embedding": […]}, a vector of length
1. An image that cannot be read gets {"file": …, "error": …}, and the run continues. The output
appears when it is complete; until then its lines are in OUTPUT.….partial, and the same command goes
on where a run was stopped. A device or pipe, such as /dev/stdout, is written to directly. In a
folder, links are followed; system files and files that are no pictures are left out, and counted.
Exit status 1: keywords could not be written into some file.

Several models, --model=A --model=B, are merged: the tags of all, each with its highest score, and
the caption of the first captioner.

With --index=DIR, an index of jaxtag.index, an image gets the tags of its nearest neighbors there.
It can be given alone, or beside --model: a tag that the model knows then gets the mean of both
scores (0 where one does not name it), a tag that is newer than the model the index's score.

Several processes annotate as they train (see jaxtag.train): each takes a stretch of the images and
writes OUTPUT-00012-of-00064.jsonl, goes on where it was stopped, and

    python -m jaxtag.annotate --merge --output=captions.jsonl

puts the files together. Images are given by paths (of a .tar its members), by --files_from=LIST or
by --dataset=NAME, a prepared data set.

Other outputs: --csv=FILE, a table; --sidecars or --embed, keywords beside or in each image for
photo programs, where what somebody wrote stays; --gallery=DIR, a page to search by tag and to
correct tags; --duplicates=FILE, images that are there twice, or were taken in a burst. The lines
and the tables, corrected or not, are read by jaxtag.prepare, jaxtag.index and, of captions, by
jaxtag.evaluate --results.

Large archives: --processes=N shares the images among processes; --watch adds a line for each new
file until it is stopped.
"""

import contextlib
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from jaxtag import cli
from jaxtag.annotation import caption_options, inputs, shards, text_labels, watch
from jaxtag.annotation.annotator import Annotator
from jaxtag.annotation.caption_options import CaptionOptions
from jaxtag.annotation.names import read_names, rename, unknown
from jaxtag.annotation.outputs import Outputs, exit_status
from jaxtag.annotation.processes import AnnotatorProcesses
from jaxtag.config import checks, serialization
from jaxtag.config import flags as config_flags
from jaxtag.config.schema import Config
from jaxtag.data import files
from jaxtag.distributed import compilation_cache, mesh
from jaxtag.errors import UsageError, UserError, did_you_mean, nearest, printable
from jaxtag.inference import checkpoint, predictor, writers
from jaxtag.inference.checkpoint import CheckpointOptions
from jaxtag.inference.writers.sidecar_programs import get_program
from jaxtag.storage import atomic_file, mirror
from jaxtag.storage.paths import is_store, make_path
from jaxtag.tag_index.predict import IndexPredictor
from jaxtag.tasks.base import Row

FLAGS = flags.FLAGS


def define_flags() -> None:
    config_flags.define()
    flags.DEFINE_multi_string(
        "model",
        [],
        "REF of a model: a work directory, hf:owner/name, …; several times for several.",
    )
    flags.DEFINE_multi_string("workdir", [], "The same, of the folder of a run.")
    flags.DEFINE_string(
        "backbone", None, "Architecture of weights that do not say it, of jaxtag.list_models()."
    )
    flags.DEFINE_list(
        "labels",
        [],
        "Names of the classes of a checkpoint: a,b,…, a file of them, or imagenet. Of a model of "
        "images and texts: any words.",
    )
    text_labels.define_flags()
    flags.DEFINE_string("index", None, "Folder of a tag index (see jaxtag.index).")
    flags.DEFINE_string("output", None, "File to write, JSON lines.")
    flags.DEFINE_string("csv", None, "Table to write too: file, tags and scores or caption, error.")
    flags.DEFINE_string(
        "gallery", None, "Folder to write too: a page, index.html, that can be searched by tag."
    )
    cli.define_optional_value(
        "sidecars",
        "any",
        "Write keywords beside each image, IMAGE.xmp, for photo programs; =digikam, lightroom, "
        "darktable or immich: under the name and in the fields that it reads, added to what it "
        "wrote.",
    )
    flags.DEFINE_bool(
        "embed",
        False,
        "Write keywords into the images (JPEG, PNG, WebP) too, which keep their pixels; each is "
        "kept as IMAGE_original.",
    )
    flags.DEFINE_float(
        "min_score",
        None,
        "Score that a tag needs to become a keyword in a file; default: 0.5, and 0 with a "
        "tagger, whose tags have thresholds of their own.",
    )
    flags.DEFINE_integer(
        "top_k",
        None,
        "Tags of each image, whatever their scores; by default those that reach their thresholds, "
        "a classifier's 5 likeliest classes, 5 of an index alone.",
        lower_bound=1,
    )
    caption_options.define_flags()
    flags.DEFINE_bool("all_scores", False, "Every tag of each image with its score.")
    flags.DEFINE_string("files_from", None, "File that lists the images, a path a line.")
    flags.DEFINE_string("dataset", None, "Take the images of a prepared data set.")
    flags.DEFINE_string("split", "train", "Split of --dataset, or of --calibrate_on.")
    flags.DEFINE_string("data_dir", None, "Where data sets are kept.")
    flags.DEFINE_bool("merge", False, "Put the files of the processes of a job together: OUTPUT.")
    cli.define_process_flags()
    flags.DEFINE_integer(
        "processes", 1, "Processes that share the images, and this machine's cores.", lower_bound=1
    )
    flags.DEFINE_string(
        "duplicates",
        None,
        "Table to write too, .csv or .json: images that are there twice, look alike or were taken "
        "in a burst, in groups, the largest first; the gallery shows them.",
    )
    flags.DEFINE_string(
        "names",
        None,
        "Table, tag,name, of names to write in the place of tags, as in another language.",
    )
    flags.DEFINE_bool(
        "watch",
        False,
        "Go on until Ctrl-C or SIGTERM: each new file of the folders gets a line at once, at the "
        "end of OUTPUT.",
    )
    flags.DEFINE_string("step", "newest", "Checkpoint: newest, best, or its step.")


def main(paths: list[str]) -> int:
    ways = [bool(paths), bool(FLAGS.files_from), bool(FLAGS.dataset)]
    if FLAGS.merge and FLAGS.output and not any(ways):
        return _merge(make_path(FLAGS.output, "--output"))
    if not ((_models() or FLAGS.index) and FLAGS.output) or ways.count(True) != 1:
        raise UsageError(
            "usage: jaxtag.annotate --model=REF [--index=DIR] --output=FILE.jsonl PATH… "
            "(or --index alone; --files_from=LIST or --dataset=NAME instead of paths)"
        )
    get_program(FLAGS.sidecars or "any")
    if FLAGS.watch:
        return _watch(paths)
    with cli.join_job():
        return _annotate(paths)


def _annotate(paths: list[str]) -> int:
    """Writes the lines of all images, or those of this process's share of them."""
    outputs, configs = _outputs(), _configs()
    images = _images(paths, outputs)
    names, output = list(images), outputs.output
    outputs.check_local(names)
    index, count = jax.process_index(), jax.process_count()
    if count > 1:
        if FLAGS.csv or FLAGS.gallery or FLAGS.duplicates or FLAGS.processes > 1:
            raise UsageError(
                "several processes of a job write lines: --csv, --gallery and --duplicates go with "
                "--merge, and --processes is for one machine"
            )
        output = shards.shard_path(output, index, count)
        names = shards.own_stretch(names, index, count)
    with mesh.on_local_devices(), contextlib.ExitStack() as stack:
        load = _loader(configs, _local_index(stack))
        annotator: Annotator | AnnotatorProcesses
        if FLAGS.processes == 1:
            annotator = load()
        else:
            annotator = stack.enter_context(
                contextlib.closing(AnnotatorProcesses(load, FLAGS.processes))
            )
        names_of_tags = _names_of_tags(annotator)
        settings = annotator.settings | {"--names": names_of_tags}
        if count > 1 and writers.is_finished(output, settings, names):
            print(f"{printable(str(output))} is complete", file=sys.stderr)
            return 0
        lines = writers.JsonlWriter(output, settings)
        stack.callback(lines.abort)
        threads = ((configs[0] if configs else None) or Config()).data.num_threads
        besides = outputs.make_writers(stack, annotator.selects_tags, threads)
        own = {name: images[name] for name in names}
        num_errors = _write_rows(annotator, lines, besides, own, names_of_tags)
        lines.arrange(names)
        for writer in besides:
            writer.close()
        lines.close(keep_settings=count > 1)
    print(
        f"{len(names) - num_errors} pictures annotated, {num_errors} could not be read: "
        f"{printable(str(output))}",
        file=sys.stderr if atomic_file.is_stream(output) else sys.stdout,
    )
    return exit_status(besides)


def _write_rows(
    annotator: Annotator | AnnotatorProcesses,
    lines: writers.JsonlWriter,
    besides: Sequence[writers.PredictionWriter],
    images: dict[str, Any],
    names_of_tags: dict[str, str],
) -> int:
    """Writes the rows of all images that have none yet; returns how many could not be read."""
    num_kept = num_errors = 0
    with tqdm(total=len(images), unit="image", disable=not sys.stderr.isatty()) as bar:
        for row in lines.previous_rows(list(images)):
            for writer in besides:
                writer.write(row)
            num_errors += "error" in row
            num_kept += 1
            bar.update()
        if num_kept:
            print(f"{num_kept} lines of a stopped run are kept", file=sys.stderr)
        for row in _rows(annotator, images, lines.previous):
            row = rename(row, names_of_tags)
            # The line comes last: where it is, nothing else is missing.
            for writer in (*besides, lines):
                writer.write(row)
            num_errors += "error" in row
            bar.update()
    return num_errors


def _merge(output: Path) -> int:
    """Writes the lines of all processes of a job as one file, and what else the flags name."""
    num_rows = 0
    with contextlib.ExitStack() as stack:
        lines = writers.JsonlWriter(output)
        stack.callback(lines.abort)
        threads = Config().data.num_threads
        besides = _outputs().make_writers(stack, selects_tags=True, num_threads=threads)
        for row in shards.merged_rows(output):
            for writer in (*besides, lines):
                writer.write(row)
            num_rows += 1
        for writer in (*besides, lines):
            writer.close()
    print(f"{num_rows} lines merged: {printable(str(output))}")
    return exit_status(besides)


def _names_of_tags(annotator: Annotator | AnnotatorProcesses) -> dict[str, str]:
    """The names of --names; those of tags that no model has are told."""
    if not FLAGS.names:
        return {}
    names = read_names(Path(FLAGS.names))
    others = unknown(names, annotator.tags)
    if others and annotator.tags:
        hint = did_you_mean(others[0], annotator.tags) if nearest(others[0], annotator.tags) else ""
        print(
            f"--names={FLAGS.names}: {len(others)} of its tags are none of the model, "
            f"{printable(others[0])} for one{printable(hint)}",
            file=sys.stderr,
        )
    return names


def _images(paths: list[str], outputs: Outputs) -> dict[str, Any]:
    """Name -> what the predictors take, of the images that the flags name."""
    if FLAGS.dataset:
        return inputs.list_records(FLAGS.dataset, FLAGS.split, FLAGS.data_dir)
    if FLAGS.files_from:
        return inputs.read_list(FLAGS.files_from)
    left_out = Counter[str]()
    names = outputs.without_own(files.list_files(paths, left_out))
    if left_out:
        print(f"left out: {files.describe_left_out(left_out)}", file=sys.stderr)
    return inputs.expand_tars(names)


def _watch(paths: list[str]) -> int:
    """Writes a line for each new file, until the process is told to end."""
    for flag in ("csv", "gallery", "duplicates"):
        if FLAGS[flag].value:
            raise UsageError(f"--watch has no --{flag}: run again without --watch to write it")
    if FLAGS.processes > 1:
        raise UsageError("--watch works in one process")
    if missing := [path for path in paths if not os.path.exists(path)]:
        raise UsageError(f"--watch: there is no {missing[0]}")
    if store := next((path for path in (*paths, FLAGS.output) if is_store(path)), None):
        raise UsageError(f"--watch looks after local folders and files: {store} is none")
    outputs = _outputs()
    annotator = _loader(_configs(), FLAGS.index)()
    watch.compile_programs(annotator)
    with contextlib.ExitStack() as stack:
        names_of_tags = _names_of_tags(annotator)
        settings = annotator.settings | {"--names": names_of_tags}
        lines = writers.GrowingJsonlWriter(outputs.output, settings)
        stack.callback(lines.abort)
        besides = outputs.make_writers(stack, annotator.selects_tags, num_threads=1)

        def write(row: Row) -> None:
            for writer in (*besides, lines):
                writer.write(rename(row, names_of_tags))
            lines.previous.add(row["file"])

        def list_new() -> list[str]:
            return outputs.without_own([n for n in _listed(paths) if n not in lines.previous])

        message = f"watching: {len(lines.previous)} files have a line"
        watch.watch(annotator, list_new, write, message)
        for writer in (*besides, lines):
            writer.close()
    print(f"{len(lines.previous)} files have a line: {printable(str(outputs.output))}")
    return exit_status(besides)


def _listed(paths: list[str]) -> list[str]:
    """The files of the folders, none where they are empty."""
    try:
        return files.list_files(paths)
    except UserError:
        return []


def _rows(
    annotator: Annotator | AnnotatorProcesses, images: dict[str, Any], previous: Container[str]
) -> Iterator[Row]:
    """The rows of images that have none yet, in order."""
    names = list(images)
    num_first = next((n for n, name in enumerate(names) if name not in previous), len(names))
    pending = [images[name] for name in names[num_first:] if name not in previous]
    if len(pending) == len(names) - num_first:  # in the batches of a run that was never stopped
        return annotator.rows(list(images.values()), num_first) if pending else iter(())
    return annotator.rows(pending)


def _loader(configs: Sequence[Config | None], index: str | None) -> Callable[[], Annotator]:
    options = CheckpointOptions(FLAGS.backbone, checkpoint.parse_labels(FLAGS.labels))
    models = tuple(zip(_models(), configs, strict=True))
    labels = text_labels.from_flags(options.labels)
    return functools.partial(
        _load, models, options, labels, FLAGS.step, index, _top_k(), caption_options.from_flags()
    )


def _load(
    references: Sequence[tuple[str, Config | None]],
    options: CheckpointOptions,
    labels: text_labels.TextLabels | None,
    step: str,
    index: str | None,
    top_k: int | None,
    captions: CaptionOptions,
) -> Annotator:
    """The models and the index that the flags name."""
    config = references[0][1] if references else None
    if (config or Config()).compilation_cache:  # a checkpoint and an index have no run
        compilation_cache.use_compilation_cache()
    models = [
        predictor.load(reference, run_config, step, options) for reference, run_config in references
    ]
    if labels is not None:
        models = [text_labels.apply_labels(model, labels) for model in models]
    for model in models:
        captions.apply(model)
    return Annotator(models, IndexPredictor.load(Path(index)) if index else None, top_k)


def _outputs() -> Outputs:
    return Outputs(
        output=make_path(FLAGS.output, "--output"),
        csv=FLAGS.csv,
        duplicates=FLAGS.duplicates,
        gallery=FLAGS.gallery,
        sidecars=FLAGS.sidecars,
        embed=FLAGS.embed,
        min_score=FLAGS.min_score,
        all_scores=FLAGS.all_scores,
    )


def _models() -> list[str]:
    """The REFs of the models."""
    return [*FLAGS.workdir, *FLAGS.model]


def _configs() -> list[Config | None]:
    """The configuration of each run, one of them changed by --config; None for a checkpoint."""
    runs = [model for model in _models() if serialization.is_workdir(model)]
    saved = {run: checks.check(serialization.load(run)) for run in runs}
    if FLAGS.config not in (None, *list(saved.values())[-1:]):
        if len(runs) != 1 or len(_models()) != 1:
            raise UsageError("--config changes one run: give one --workdir")
        saved = {runs[0]: checks.check(FLAGS.config)}
    return [saved.get(model) for model in _models()]


def _top_k() -> int | None:
    return sys.maxsize if FLAGS.all_scores else FLAGS.top_k


def _local_index(stack: contextlib.ExitStack) -> str | None:
    """The folder of --index; that of a store is copied, and the copy removed with `stack`."""
    if not FLAGS.index:
        return None
    folder = make_path(FLAGS.index, "--index")
    copy = mirror.local_copy(folder, "--index", last="manifest.json", write=False)
    return os.fspath(stack.enter_context(copy))


def run() -> None:
    cli.run(main, define_flags, positional=True)


if __name__ == "__main__":
    run()
