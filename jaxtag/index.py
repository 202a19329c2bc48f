"""Builds, edits and searches a tag index: tags by nearest neighbors, extended without training.

  python -m jaxtag.index build --index=DIR --workdir=RUN --dataset=corel5k [--split=train]
  python -m jaxtag.index build --index=DIR --model=resnet18 --weights=FILE --tags=tags.csv
  python -m jaxtag.index add --index=DIR --tag=beach,dog photos/2026/
  python -m jaxtag.index tag --index=DIR --tag=surfer photos/a.jpg photos/b.jpg
  python -m jaxtag.index untag --index=DIR --tag=surfer [photos/b.jpg]
  python -m jaxtag.index remove --index=DIR photos/a.jpg
  python -m jaxtag.index search --index=DIR [--top_k=5] photos/c.jpg
  python -m jaxtag.index search --index=DIR --text="a dog on a beach"
  python -m jaxtag.index evaluate --index=DIR --dataset=corel5k --split=validation
  python -m jaxtag.index info | compact --index=DIR

`build` makes an index. Its feature vectors come from a run of jaxtag.train (--workdir), from a
backbone with pretrained weights (--model, --weights; without weights a random one), from any REF of
a model (--model=hf:owner/name), or from the pixels themselves (--pixels=16). Its images come from a
prepared data set (--dataset), from a table of files with tags (--tags: CSV or JSON lines, as for
jaxtag.prepare; files relative to it), or from paths, which all get the tags of --tag.
--two_pass_knn balances rare and frequent tags (2PKNN, Verma and Jawahar 2012): for data of many
tags, most of them rare.

A `build` that was interrupted goes on with the same command. Several processes share its images as
they do in jaxtag.train.

`add` adds images. `tag` gives images a tag, which may be new to the index, as may the images.
`untag` takes a tag from images, or without paths from all. `search` writes a line for each image:
tags with scores, and the nearest other images. With --text it writes a line for each text: the
images that are nearest, of an index whose model embeds texts too (CLIP, SigLIP, a run that matches
images and texts). Where the model has moved, --model=REF or --workdir=RUN says where it is.
`evaluate` scores the index's tags on a labeled split and prints the metrics as a line of JSON.
`compact` frees the space of removed images; until then their vectors stay on disk.

`jaxtag.annotate --index=DIR` tags images with it.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from jaxtag import cli
from jaxtag.errors import UsageError, UserError, printable
from jaxtag.storage import mirror, transfer
from jaxtag.storage.paths import absolute, is_store, make_path

if TYPE_CHECKING:
    from jaxtag.data.sources import DataSource, Source
    from jaxtag.inference.features import FeatureBatch, FeatureExtractor
    from jaxtag.tag_index import IndexStorage, TagIndex

FLAGS = flags.FLAGS
_MANIFEST = "manifest.json"  # of an index; names its other files
_IMAGES_PER_WRITE = 512  # what a run that is ended keeps


def define_flags() -> None:
    flags.DEFINE_string("index", None, "Folder of the index.")
    cli.define_feature_flags()
    flags.DEFINE_enum(
        "metric",
        "cosine",
        ["cosine", "inner_product", "euclidean", "hellinger"],
        "Similarity of feature vectors; hellinger, the cosine of their square roots, suits CNNs.",
    )
    flags.DEFINE_bool("two_pass_knn", False, "Let the nearest images of each tag vote (2PKNN).")
    cli.define_alias("two_pass", "two_pass_knn")
    flags.DEFINE_string("dataset", None, "Take the images of a prepared data set.")
    flags.DEFINE_string("split", "train", "Split of --dataset.")
    flags.DEFINE_string("data_dir", None, "Where data sets are kept.")
    flags.DEFINE_string("tags", None, "Take the images of a table of files and tags.")
    flags.DEFINE_list("tag", [], "Tags, separated by commas.")
    flags.DEFINE_multi_string("text", [], "What to search for; several times for several texts.")
    flags.DEFINE_integer("top_k", 5, "Number of nearest images, and of tags, to print.", 1)
    cli.define_alias("count", "top_k")
    cli.define_process_flags()


def main(argv: list[str]) -> None:
    subcommand, *paths = argv
    cli.require("index", ": the folder of the index")
    folder = make_path(FLAGS.index, "--index")
    write = subcommand not in ("search", "evaluate", "info")
    with mirror.local_copy(folder, "--index", last=_MANIFEST, write=write) as local:
        _SUBCOMMANDS[subcommand](local, paths)


def _build(folder: Path, paths: list[str]) -> None:
    from jaxtag.data.files import ImageSource
    from jaxtag.distributed import coordination, mesh
    from jaxtag.inference import features
    from jaxtag.tag_index import DEFAULT_KNN, TWO_PASS, TagIndex

    index: TagIndex | None = None

    def create() -> None:  # on process 0, which writes what all of them compute
        nonlocal index
        with mesh.on_local_devices():
            index = TagIndex.create(
                folder,
                dimension=extractor.dimension,
                metric=FLAGS.metric,
                features=extractor.description,
                knn=TWO_PASS if FLAGS.two_pass_knn else DEFAULT_KNN,
                building=True,
            )

    with cli.join_job():
        extractor = features.from_flags(**cli.feature_flags())
        names, tags, records = _images_of_flags(paths)
        source: DataSource | None = records
        coordination.run_on_process_zero(create)
        if jax.process_count() > 1 and source is None:
            source = ImageSource(names)
        if index is not None:
            _add_images(index, extractor, names, tags, source)
            index.finish_building()
        elif source is not None:
            for _ in extractor.of_source(source):
                pass


def _add(folder: Path, paths: list[str]) -> None:
    index, extractor = _open(folder)
    _add_images(index, extractor, *_images_of_flags(paths))


def _tag(folder: Path, paths: list[str]) -> None:
    if not FLAGS.tag or not paths:
        raise UsageError("usage: jaxtag.index tag --index=DIR --tag=NAME PATH…")
    index, extractor = _open(folder)
    names = _names(paths, index)
    indexed = [name for name in names if name in index]
    for tag in FLAGS.tag:
        index.tag(tag, indexed)
    print(printable(f"{len(indexed)} images of the index tagged {', '.join(FLAGS.tag)}"))
    new = [name for name in names if name not in index]
    if new:
        _add_images(index, extractor, new, [[]] * len(new))


def _untag(folder: Path, paths: list[str]) -> None:
    if not FLAGS.tag:
        raise UsageError("usage: jaxtag.index untag --index=DIR --tag=NAME [PATH…]")
    storage = _storage(folder)
    for tag in FLAGS.tag:
        storage.untag(tag, _names(paths, storage) if paths else None)


def _remove(folder: Path, paths: list[str]) -> None:
    if not paths:
        raise UsageError("usage: jaxtag.index remove --index=DIR PATH…")
    storage = _storage(folder)
    rows = storage.remove(_names(paths, storage))
    print(f"{len(rows)} images removed; `compact` frees their space")


def _search(folder: Path, paths: list[str]) -> None:
    if FLAGS.text:
        if paths:
            raise UsageError("give images or --text, not both")
        _search_texts(folder, FLAGS.text)
        return
    index, extractor = _open(folder)
    names = _names(paths)
    for batch in extractor.of_files(names):
        # One more: an image of the index finds itself, which is left out.
        nearest = index.search(batch.vectors, FLAGS.top_k + 1)
        tags = index.tags(batch.vectors, FLAGS.top_k)
        lines: dict[int, dict[str, object]] = {
            position: {"error": reason} for position, reason in batch.errors.items()
        }
        for position, image_files, image_tags in zip(
            batch.positions.tolist(), nearest, tags, strict=True
        ):
            others = [(file, score) for file, score in image_files if file != names[position]]
            lines[position] = {
                "tags": _scored("tag", image_tags),
                "nearest": _scored("file", others[: FLAGS.top_k]),
            }
        for position in sorted(lines):
            print(json.dumps({"file": names[position], **lines[position]}))


def _search_texts(folder: Path, texts: list[str]) -> None:
    """Writes a line for each text: the images whose vectors are nearest to its vector."""
    from jaxtag.inference import zero_shot

    index, extractor = _open(folder)
    if extractor.model is None:
        raise UsageError(
            f"--text: the vectors of {folder} are of images alone: build it with --model=REF of a "
            "model of images and texts"
        )
    vectors = zero_shot.embed_texts(extractor.model, texts)
    for text, images in zip(texts, index.search(vectors, FLAGS.top_k), strict=True):
        print(json.dumps({"text": text, "nearest": _scored("file", images)}))


def _evaluate(folder: Path, paths: list[str]) -> None:
    from jaxtag import datasets
    from jaxtag.inference import feature_cache
    from jaxtag.tag_index import evaluation

    if paths or not FLAGS.dataset:
        raise UsageError("usage: jaxtag.index evaluate --index=DIR --dataset=NAME --split=NAME")
    index, extractor = _open(folder)
    source = datasets.open_split(FLAGS.dataset, FLAGS.split, FLAGS.data_dir)
    features = feature_cache.split_features(extractor, source)
    metrics = evaluation.evaluate(index, features.vectors, source, features.positions)
    print(json.dumps(metrics))


def _scored(key: str, pairs: Iterable[tuple[str, float]]) -> list[dict[str, object]]:
    return [{key: name, "score": round(score, 4)} for name, score in pairs]


def _info(folder: Path, _: list[str]) -> None:
    storage = _storage(folder)
    counts = storage.tags().sum(0).astype(int).tolist()
    tags = dict(zip(storage.tag_names, counts, strict=True))
    print(json.dumps({"pictures": len(storage.files), "tags": tags, **storage.description}))


def _compact(folder: Path, _: list[str]) -> None:
    storage = _storage(folder)
    removed = len(storage.entries) - len(storage.files)
    storage.compact()
    print(f"{removed} removed images erased")


def _storage(folder: Path) -> "IndexStorage":
    from jaxtag.tag_index import IndexStorage

    return IndexStorage(folder)


def _open(folder: Path) -> "tuple[TagIndex, FeatureExtractor]":
    """The index, and the extractor of its feature vectors."""
    from jaxtag.inference import features
    from jaxtag.tag_index import TagIndex

    storage = _storage(folder)
    description = storage.description.get("features")
    if not isinstance(description, dict):
        raise UserError(f"{folder}: its manifest is damaged: it does not say what the vectors are")
    moved = ""
    if reference := FLAGS.workdir or FLAGS.model:
        if "workdir" not in description:
            raise UsageError(f"--workdir: the vectors of {folder} are no model's: {description}")
        if not _is_there(description["workdir"]):
            moved = reference if _is_remote(reference) else os.path.abspath(reference)
        description = {**description, "workdir": reference}
    extractor = features.from_description(description)
    if moved:
        new = {**description, "workdir": moved}
        storage.replace_description({**storage.description, "features": new})
        print(printable(f"{folder} looks for its model in {moved} from now on"), file=sys.stderr)
    return TagIndex(folder, extractor.mesh), extractor


def _is_there(reference: str) -> bool:
    """Whether the model of an index is where its manifest says."""
    return _is_remote(reference) or Path(reference).exists()


def _is_remote(reference: str) -> bool:
    return reference.startswith("hf:") or is_store(make_path(reference))


def _images_of_flags(
    paths: list[str],
) -> "tuple[list[str], list[list[str]], Source | None]":
    """(names, tags of each, the data set that holds them or None) of the images to index."""
    if [bool(FLAGS.dataset), bool(FLAGS.tags), bool(paths)].count(True) != 1:
        raise UsageError("give images in one way: --dataset, --tags, or paths")
    if FLAGS.dataset:
        return _images_of_dataset()
    if FLAGS.tags:
        return (*_images_of_table(make_path(FLAGS.tags, "--tags")), None)
    names = _names(paths)
    return names, [[]] * len(names), None


def _images_of_dataset() -> "tuple[list[str], list[list[str]], Source]":
    from jaxtag import datasets
    from jaxtag.data import sources

    source = datasets.open_split(FLAGS.dataset, FLAGS.split, FLAGS.data_dir)
    names, tags = [], []
    for file, file_tags in sources.iter_tags(source):
        names.append(f"{FLAGS.dataset}/{FLAGS.split}/{file}")
        tags.append(file_tags)
    return names, tags, source


def _images_of_table(path: Path) -> tuple[list[str], list[list[str]]]:
    from jaxtag.datasets import annotation_tables, annotations
    from jaxtag.datasets.source_files import SourceFiles

    if not path.is_file():
        raise UsageError(f"--tags={path}: there is no such file")
    tags: dict[str, list[str]] = {}
    with contextlib.ExitStack() as stack:
        folder = path.parent
        if is_store(path):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxtag-")))
            transfer.download(path, folder / path.name)
        source = stack.enter_context(SourceFiles(folder, lambda name: False))
        table = annotation_tables.read_table(source, path.name)
        for row in table.rows:
            if row.kind != annotations.TAGS:
                raise UserError(f"{row.location}: there are captions, and no tags")
            if is_store(path) or is_store(row.file):
                name = row.file if is_store(row.file) else os.fspath(path.parent / row.file)
                tags.setdefault(name, []).extend(row.texts)
                continue
            name = os.path.abspath(path.parent / row.file)
            if not os.path.exists(name):  # written on another machine, or moved
                matches = source.locate(row.file)
                name = os.path.abspath(path.parent / matches[0]) if len(matches) == 1 else name
            tags.setdefault(name, []).extend(row.texts)
    for warning in table.warnings:
        print(printable(f"warning: {warning}"), file=sys.stderr)
    for location, reason in table.problems:
        print(printable(f"left out: {location}: {reason}"), file=sys.stderr)
    return list(tags), list(tags.values())


def _names(paths: Sequence[str], indexed: Container[str] = ()) -> list[str]:
    """Absolute names of files, patterns and folders; names that are `indexed` stay as they are."""
    from jaxtag.data import files

    others = [path for path in paths if path not in indexed]
    listed = files.list_files(others) if others else []
    return [path for path in paths if path in indexed] + [
        os.fspath(absolute(make_path(name))) for name in listed
    ]


def _add_images(
    index: "TagIndex",
    extractor: "FeatureExtractor",
    names: list[str],
    tags: list[list[str]],
    source: "DataSource | None" = None,
) -> None:
    """Adds images that are not in the index yet; reports those that cannot be read."""
    if source is None:
        new = [position for position, name in enumerate(names) if name not in index]
        names, tags = [names[position] for position in new], [tags[position] for position in new]
    batches = extractor.of_files(names) if source is None else extractor.of_source(source)
    num_errors, num_pending = 0, 0
    pending: list[FeatureBatch] = []
    with tqdm(total=len(names), unit="image", disable=not sys.stderr.isatty()) as bar:
        for batch in batches if names else ():
            for position, reason in batch.errors.items():
                print(printable(f"left out: {names[position]}: {reason}"), file=sys.stderr)
            num_errors += len(batch.errors)
            pending.append(batch)
            num_pending += len(batch.positions)
            if num_pending >= _IMAGES_PER_WRITE:
                _write_batches(index, pending, names, tags)
                pending, num_pending = [], 0
            bar.update(len(batch.positions) + len(batch.errors))
    _write_batches(index, pending, names, tags)
    print(
        f"{len(index)} images in the index, {num_errors} could not be read: "
        f"{printable(FLAGS.index)}"
    )


def _write_batches(
    index: "TagIndex", batches: "list[FeatureBatch]", names: list[str], tags: list[list[str]]
) -> None:
    rows = [
        (position, vector)
        for batch in batches
        for position, vector in zip(batch.positions, batch.vectors, strict=True)
        if names[position] not in index
    ]
    if rows:
        positions, vectors = zip(*rows, strict=True)
        row_tags = [[*tags[position], *FLAGS.tag] for position in positions]
        index.add([names[position] for position in positions], np.stack(vectors), row_tags)


_SUBCOMMANDS = {
    "build": _build,
    "add": _add,
    "remove": _remove,
    "tag": _tag,
    "untag": _untag,
    "search": _search,
    "evaluate": _evaluate,
    "info": _info,
    "compact": _compact,
}


def run() -> None:
    cli.run(main, define_flags, positional=True, subcommands=tuple(_SUBCOMMANDS))


if __name__ == "__main__":
    run()
