"""What a tag index says of files, alone or together with what a model says of them."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.inference import features
from jaxtag.tag_index import IndexStorage, TagIndex

Line = dict[str, Any]  # of a picture, as jaxtag.annotate writes it


def tagged(folder: Path, files: Sequence[str], most: int) -> Iterator[Line]:
    """A line for each file, in order: its `most` likeliest tags by an index's neighbours.

    Raises:
      UserError: at once, where there is no index, or what made its vectors is gone.
    """
    maker = features.from_description(IndexStorage(folder).description["features"])
    return _tagged(TagIndex(folder, maker.mesh), maker, files, most)


def _tagged(
    index: TagIndex, maker: features.FeatureExtractor, files: Sequence[str], most: int
) -> Iterator[Line]:
    for part in maker.of_files(files):
        lines = {place: {"error": reason} for place, reason in part.errors.items()}
        for place, tags in zip(part.positions, index.tags(part.vectors, most), strict=True):
            lines[int(place)] = {"tags": [_entry(tag, score) for tag, score in tags]}
        for place in sorted(lines):
            yield {"file": files[place], **lines[place]}


def together(
    told: Iterator[Line], indexed: Iterator[Line], known: Container[str], most: int
) -> Iterator[Line]:
    """Lines of a model and of an index as one: a tag that the model knows gets the mean score.

    What one of them does not name counts as 0 there. A tag that only the index knows, because it
    came after training, keeps its score. What else the model says stays.
    """
    for line, other in zip(told, indexed, strict=True):
        if "error" in line or "error" in other:
            yield line if "error" in line else other
            continue
        ours = {entry["tag"]: entry["score"] for entry in line.get("tags", ())}
        theirs = {entry["tag"]: entry["score"] for entry in other["tags"]}
        names = list(dict.fromkeys([*ours, *theirs]))
        scores = np.array([_score(name, ours, theirs, known) for name in names])
        best = np.argsort(-scores, kind="stable")[:most]
        yield {**line, "tags": [_entry(names[i], scores[i]) for i in best]}


def _score(
    name: str, ours: dict[str, float], theirs: dict[str, float], known: Container[str]
) -> float:
    if name not in known:
        return theirs[name]
    return (ours.get(name, 0.0) + theirs.get(name, 0.0)) / 2


def _entry(tag: str, score: float) -> dict[str, Any]:
    return {"tag": tag, "score": round(float(score), 4)}
