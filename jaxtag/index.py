"""A tag index: tags for pictures from their nearest neighbours; it grows without training.

  python -m jaxtag.index build --index=DIR --workdir=RUN --dataset=corel5k [--split=train]
  python -m jaxtag.index build --index=DIR --model=resnet18 --weights=FILE --tags=tags.csv
  python -m jaxtag.index add --index=DIR --tag=beach,dog photos/2026/
  python -m jaxtag.index tag --index=DIR --tag=surfer photos/a.jpg photos/b.jpg
  python -m jaxtag.index untag --index=DIR --tag=surfer [photos/b.jpg]
  python -m jaxtag.index remove --index=DIR photos/a.jpg
  python -m jaxtag.index search --index=DIR [--top_k=5] photos/c.jpg
  python -m jaxtag.index info | compact --index=DIR

`build` makes an index, of what a run of jaxtag.train has learnt (--workdir), of a backbone with
given weights (--model, --weights; without weights a random one) or of the pixels themselves
(--pixels=16). Pictures come from a prepared data set (--dataset), from a table of files with tags
(--tags: CSV or JSON lines, as for jaxtag.prepare; files relative to it), or from paths, which all
get the tags of --tag. --two_pass_knn balances rare and frequent tags (2PKNN, Verma and Jawahar
2012): for data of many tags, most of them rare. `add` adds more of them. `tag` gives a tag,
one that nobody has heard of too; pictures that are not in the index yet are added. `untag` takes it
away, without paths from all.
`search` writes a line for each picture: tags with scores, and the nearest pictures.
`compact` frees the room of removed pictures; until then their vectors stay on disk.

`jaxtag.annotate --index=DIR` tags pictures by it.
"""

import json
import os
import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from jaxtag import cli
from jaxtag.errors import UsageError, UserError

FLAGS = flags.FLAGS
_AT_ONCE = 4096  # images that are written together


def define_flags() -> None:
    flags.DEFINE_string("index", None, "Folder of the index.")
    flags.DEFINE_string("workdir", None, "Vectors by a run of jaxtag.train.")
    flags.DEFINE_string("step", "newest", "Checkpoint of the run: newest, best, or its step.")
    flags.DEFINE_string("model", None, "Vectors by a backbone of jaxtag.models.list_models().")
    flags.DEFINE_string("weights", None, "Weights of --model, safetensors of any library.")
    flags.DEFINE_integer("pixels", None, "Vectors are the pictures at so many pixels a side.")
    flags.DEFINE_enum(
        "metric", "cosine", ["cosine", "inner_product", "euclidean"], "What near means."
    )
    flags.DEFINE_bool("two_pass_knn", False, "Let the nearest images of each tag vote (2PKNN).")
    cli.define_alias("two_pass", "two_pass_knn")
    flags.DEFINE_string("dataset", None, "Pictures of a prepared data set.")
    flags.DEFINE_string("split", "train", "Split of --dataset.")
    flags.DEFINE_string("data_dir", None, "Where data sets are kept.")
    flags.DEFINE_string("tags", None, "Pictures of a table: file and tags.")
    flags.DEFINE_list("tag", [], "Tags, with commas between them.")
    flags.DEFINE_integer("top_k", 5, "Number of nearest images, and of tags, to print.", 1)
    cli.define_alias("count", "top_k")


def main(argv: list[str]) -> None:
    subcommand, *paths = argv
    cli.require("index", ": the folder of the index")
    _SUBCOMMANDS[subcommand](Path(FLAGS.index), paths)


def _build(folder: Path, paths: list[str]) -> None:
    from jaxtag.inference import features
    from jaxtag.tag_index import DEFAULT_KNN, TWO_PASS, TagIndex

    maker = features.from_flags(
        FLAGS.workdir,
        FLAGS.step,
        FLAGS.model,
        FLAGS.weights,
        FLAGS.pixels,
    )
    pictures = _pictures(paths)
    index = TagIndex.create(
        folder,
        dimension=maker.dimension,
        metric=FLAGS.metric,
        features=maker.description,
        vote=TWO_PASS if FLAGS.two_pass_knn else DEFAULT_KNN,
        mesh=maker.mesh,
    )
    _add_all(index, maker, *pictures)


def _add(folder: Path, paths: list[str]) -> None:
    index, maker = _opened(folder)
    _add_all(index, maker, *_pictures(paths))


def _tag(folder: Path, paths: list[str]) -> None:
    if not FLAGS.tag or not paths:
        raise UsageError("usage: jaxtag.index tag --index=DIR --tag=NAME PATH…")
    index, maker = _opened(folder)
    names = _names(paths, index)
    known = [name for name in names if name in index]
    for tag in FLAGS.tag:
        index.tag(tag, known)
    print(f"{len(known)} pictures of the index tagged {', '.join(FLAGS.tag)}")
    new = [name for name in names if name not in index]
    if new:
        _add_all(index, maker, new, [[]] * len(new))


def _untag(folder: Path, paths: list[str]) -> None:
    if not FLAGS.tag:
        raise UsageError("usage: jaxtag.index untag --index=DIR --tag=NAME [PATH…]")
    store = _store(folder)
    for tag in FLAGS.tag:
        store.untag(tag, _names(paths, store) if paths else None)


def _remove(folder: Path, paths: list[str]) -> None:
    if not paths:
        raise UsageError("usage: jaxtag.index remove --index=DIR PATH…")
    store = _store(folder)
    removed = store.remove(_names(paths, store))
    print(f"{len(removed)} pictures removed; `compact` frees their room")


def _search(folder: Path, paths: list[str]) -> None:
    index, maker = _opened(folder)
    names = _names(paths)
    for part in maker.of_files(names):
        near = index.search(part.vectors, FLAGS.top_k)
        tags = index.tags(part.vectors, FLAGS.top_k)
        lines = {position: {"error": reason} for position, reason in part.errors.items()}
        for position, found, given in zip(part.positions, near, tags, strict=True):
            files = [{"file": file, "score": round(score, 4)} for file, score in found]
            named = [{"tag": tag, "score": round(score, 4)} for tag, score in given]
            lines[int(position)] = {"tags": named, "nearest": files}
        for position in sorted(lines):
            print(json.dumps({"file": names[position], **lines[position]}))


def _info(folder: Path, _: list[str]) -> None:
    store = _store(folder)
    counts = dict(zip(store.tag_names, store.tags().sum(0).astype(int).tolist(), strict=True))
    print(json.dumps({"pictures": len(store.files), "tags": counts, **store.description}))


def _compact(folder: Path, _: list[str]) -> None:
    store = _store(folder)
    removed = len(store.pictures) - len(store.files)
    store.compact()
    print(f"{removed} removed pictures erased")


def _store(folder: Path) -> Any:
    from jaxtag.tag_index import IndexStorage

    return IndexStorage(folder)


def _opened(folder: Path) -> tuple[Any, Any]:
    """The index, and what makes vectors for it."""
    from jaxtag.inference import features
    from jaxtag.tag_index import TagIndex

    described = _store(folder).description["features"]
    if FLAGS.workdir:  # it may lie elsewhere by now
        if "workdir" not in described:
            raise UsageError(f"--workdir: the vectors of {folder} are no run's: {described}")
        described = {**described, "workdir": FLAGS.workdir}
    maker = features.from_description(described)
    return TagIndex(folder, maker.mesh), maker


def _pictures(paths: list[str]) -> tuple[list[str], list[list[str]], Any]:
    """What the flags name: (names, tags of each, the data set that holds them or None)."""
    ways = [bool(FLAGS.dataset), bool(FLAGS.tags), bool(paths)]
    if sum(ways) != 1:
        raise UsageError("give pictures in one way: --dataset, --tags, or paths")
    if FLAGS.dataset:
        return _of_dataset()
    if FLAGS.tags:
        return (*_of_table(Path(FLAGS.tags)), None)
    names = _names(paths)
    return names, [[]] * len(names), None


def _of_dataset() -> tuple[list[str], list[list[str]], Any]:
    from jaxtag.data import sources

    source = sources.open_split(FLAGS.dataset, FLAGS.split, FLAGS.data_dir)
    names, tags = [], []
    for file, given in sources.iter_tags(source):
        names.append(f"{FLAGS.dataset}/{FLAGS.split}/{file}")
        tags.append(given)
    return names, tags, source


def _of_table(path: Path) -> tuple[list[str], list[list[str]]]:
    from jaxtag.datasets import annotation_tables
    from jaxtag.datasets.archives import Store

    if not path.is_file():
        raise UsageError(f"--tags={path}: there is no such file")
    found: dict[str, list[str]] = {}
    problems: list[tuple[str, str]] = []
    with Store(path.parent, lambda name: False) as store:
        for row in annotation_tables.read_table(store, path.name, problems):
            if row.kind != annotation_tables.TAGS:
                raise UserError(f"{row.place}: there are captions, and no tags")
            name = os.path.abspath(path.parent / row.file)
            found.setdefault(name, []).extend(row.texts)
    for place, reason in problems:
        print(f"left out: {place}: {reason}", file=sys.stderr)
    return list(found), list(found.values())


def _names(paths: Sequence[str], known: Container[str] = ()) -> list[str]:
    """Files, patterns and folders, by their absolute names; names that are `known` as they are."""
    from jaxtag.data import files

    as_they_are = [path for path in paths if path in known]
    others = [path for path in paths if path not in known]
    found = files.list_files(others) if others else []
    return as_they_are + [os.path.abspath(name) for name in found]


def _add_all(
    index: Any, maker: Any, names: list[str], tags: list[list[str]], source: Any = None
) -> None:
    """Adds pictures; those that cannot be read are told, those that are there already left."""
    if source is None:
        new = [place for place, name in enumerate(names) if name not in index]
        names, tags = [names[place] for place in new], [tags[place] for place in new]
    parts = maker.of_files(names) if source is None else maker.of_source(source)
    bad, waiting, count = 0, [], 0
    with tqdm(total=len(names), unit="picture", disable=not sys.stderr.isatty()) as bar:
        for part in parts if names else ():
            for place, reason in part.errors.items():
                print(f"left out: {names[place]}: {reason}", file=sys.stderr)
            bad += len(part.errors)
            waiting.append(part)
            count += len(part.positions)
            if count >= _AT_ONCE:
                _add_parts(index, waiting, names, tags)
                waiting, count = [], 0
            bar.update(len(part.positions) + len(part.errors))
    _add_parts(index, waiting, names, tags)
    print(f"{len(index)} pictures in the index, {bad} could not be read: {FLAGS.index}")


def _add_parts(index: Any, parts: list[Any], names: list[str], tags: list[list[str]]) -> None:
    for_each = [
        (place, v) for part in parts for place, v in zip(part.positions, part.vectors, strict=True)
    ]
    new = [(place, vector) for place, vector in for_each if names[place] not in index]
    if new:
        places, vectors = zip(*new, strict=True)
        given = [[*tags[place], *FLAGS.tag] for place in places]
        index.add([names[place] for place in places], np.stack(vectors), given)


_SUBCOMMANDS = {
    "build": _build,
    "add": _add,
    "remove": _remove,
    "tag": _tag,
    "untag": _untag,
    "search": _search,
    "info": _info,
    "compact": _compact,
}


def run() -> None:
    cli.run(main, define_flags, positional=True, subcommands=tuple(_SUBCOMMANDS))


if __name__ == "__main__":
    run()
