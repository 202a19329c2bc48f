"""Prepares a data set for training: official files, or your own, into ArrayRecord.

  python -m jaxtag.prepare --dataset=coco_captions --source=DIR      COCO, zips or unpacked
  python -m jaxtag.prepare --dataset=flickr8k_captions --source=DIR  Flickr8k, zips or unpacked
  python -m jaxtag.prepare --dataset=mnist --source=DIR              MNIST, the four IDX files
  python -m jaxtag.prepare --dataset=cifar10 --source=DIR            and cifar100: any official form
  python -m jaxtag.prepare --dataset=imagenet2012 --source=DIR       ImageNet-1k, tars or unpacked
  python -m jaxtag.prepare --dataset=voc2007 --source=DIR            Pascal VOC 2007, the same
  python -m jaxtag.prepare --dataset=coco_tags --source=DIR          COCO's categories, as above
  python -m jaxtag.prepare --dataset=nus_wide --source=DIR           NUS-WIDE: lists and images
  python -m jaxtag.prepare --dataset=mirflickr25k --source=DIR       MIRFlickr, zips or unpacked
  python -m jaxtag.prepare --dataset=corel5k --source=DIR            Corel-5K: lists and images
  python -m jaxtag.prepare --dataset=shapes_captions                 embedded, needs no files
  python -m jaxtag.prepare --dataset=my_pictures --source=DIR        any other name: your own

Your own data are a folder of images with captions.csv (columns file, caption and, if you like,
split; one row a caption), the same with tags (tags.csv with columns file and tags, as in sea;sky,
or a row a tag), or a folder for each class, with folders train, val and test above them if you
like; or what Hugging Face, Kaggle, Roboflow, CVAT, Label Studio, FiftyOne and others export. The
form is detected and said; --as=FORM reads it in another, --dry_run shows what would be made.
Without splits a tenth of the images is held out for validation; images of the same group, a further
column, stay together.

Data of any size: --num_shards=64 with --source=TABLE.jsonl, a line for each image as above, writes
64 files a split without holding the table in memory, and goes on where it was stopped; with
--beam_pipeline_options=runner=… the workers of Apache Beam write them, on many machines.

Damaged images are left out and listed in ledger.jsonl beside the records; examples.png there shows
some of the others. An interrupted preparation resumes with the same command: images that were
verified before are not decoded again.
"""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxtag import cli
from jaxtag.errors import UsageError
from jaxtag.storage.paths import make_path

if TYPE_CHECKING:
    from jaxtag.datasets import Summary

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string(
        "dataset",
        None,
        "Name of the data set: a built-in one, or a new name for your own images.",
    )
    flags.DEFINE_string(
        "source",
        None,
        "Folder with the files (zips may stay packed), an archive, or a table of captions or tags.",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Where data sets are kept; default: $TFDS_DATA_DIR, then tfds's own folder.",
    )
    flags.DEFINE_string(
        "as",
        None,
        "The form that your own data are in, where it is not detected: FORM, FORM:captions or "
        "FORM:tags. A wrong name lists the forms.",
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Show what would be made (splits, counts, names, first examples, files that are not used), "
        "and write nothing.",
    )
    flags.DEFINE_bool(
        "overwrite", False, "Prepare again; replaces the data set once the new one is complete."
    )
    flags.DEFINE_bool(
        "keep_exif",
        False,
        "Keep all metadata of JPEG, PNG and WebP files. Otherwise only the orientation is kept: "
        "cameras store places, names and serial numbers. Pixels are the same either way.",
    )
    flags.DEFINE_bool(
        "accept_doubtful",
        False,
        "Prepare in spite of what looks like a mistake: classes that validation or test have and "
        "train has not, or that validation lacks, or folders that are called after dates.",
    )
    flags.DEFINE_integer(
        "num_shards",
        None,
        "Files of each split, for data of any size: --source is a table of JSON lines, which is "
        "never held in memory; shards are written one by one, and stay where a run is stopped.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "beam_pipeline_options",
        None,
        "With --num_shards: write them by the workers of Apache Beam, given its flags without "
        "dashes, such as runner=DirectRunner,direct_num_workers=4.",
    )
    flags.DEFINE_integer(
        "workers", None, "Threads that read and check images; default: one a core.", lower_bound=1
    )


def main(_: list[str]) -> None:
    from jaxtag import datasets
    from jaxtag.datasets import preview

    names = ", ".join(datasets.NAMES)
    cli.require("dataset", f": one of {names}, or a name for your own data")
    logging.getLogger("absl").setLevel(logging.WARNING)  # tfds logs every step
    form = FLAGS["as"].value
    if FLAGS.dry_run:
        print(datasets.dry_run(FLAGS.dataset, FLAGS.source, form=form))
        return
    data_dir = datasets.data_dir(FLAGS.data_dir)
    summary = _prepare_in_shards(data_dir) if FLAGS.num_shards else _prepare(data_dir, form)
    print(summary)
    assert summary.folder is not None
    if summary.already:
        print(f"was prepared already, in {summary.folder}; --overwrite prepares it again")
    else:
        contact_sheet = preview.draw_examples(summary.folder, next(iter(summary.splits)))
        print(f"prepared in {summary.folder}, examples in {contact_sheet.name}")


def _prepare(data_dir: Path, form: str | None) -> "Summary":
    from jaxtag import datasets

    if FLAGS.beam_pipeline_options is not None:
        raise UsageError("--beam_pipeline_options goes with --num_shards")
    return datasets.prepare(
        FLAGS.dataset,
        FLAGS.source,
        data_dir,
        overwrite=FLAGS.overwrite,
        keep_exif=FLAGS.keep_exif,
        num_threads=FLAGS.workers,
        accept_doubtful=FLAGS.accept_doubtful,
        form=form,
    )


def _prepare_in_shards(data_dir: Path) -> "Summary":
    from jaxtag.datasets.sharded.prepare import prepare_in_shards

    cli.require("source", ": a table of JSON lines, a line for each image")
    options = FLAGS.beam_pipeline_options
    return prepare_in_shards(
        FLAGS.dataset,
        make_path(FLAGS.source, "--source").expanduser(),
        data_dir,
        FLAGS.num_shards,
        beam_options=None if options is None else [f"--{option}" for option in options],
        overwrite=FLAGS.overwrite,
        keep_exif=FLAGS.keep_exif,
        num_threads=FLAGS.workers or len(os.sched_getaffinity(0)),
    )


def run() -> None:
    cli.run(main, define_flags)


if __name__ == "__main__":
    run()
