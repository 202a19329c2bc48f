"""A tag index: pictures as vectors with their tags, on disk and ready to be searched."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from scipy.sparse import csr_array

from jaxtag.errors import UserError
from jaxtag.tag_index import voting
from jaxtag.tag_index.storage import IndexStorage
from jaxtag.tag_index.vectors import METRICS, VectorIndex


@dataclasses.dataclass(frozen=True)
class KnnConfig:
    """How neighbours decide on tags; kept with an index.

    Attributes:
      neighbours: how many are asked; where tags `propagate`, of each tag.
      temperature: scores are divided by it before their softmax.
      propagate: two-pass neighbours (see `voting.propagate`), for data of many rare tags.
    """

    neighbours: int = 20
    temperature: float = 0.05
    propagate: bool = False


DEFAULT_KNN = KnnConfig()
TWO_PASS = KnnConfig(neighbours=5, propagate=True)


class TagIndex:
    """Pictures with vectors and tags. It grows at run time: nothing is trained or compiled anew.

    Args:
      folder: of an index that `create` made.
      mesh: devices that hold its vectors; by default all.

    Raises:
      UserError: there is no index, or it is damaged.
    """

    def __init__(self, folder: Path, mesh: Mesh | None = None):
        self._store = IndexStorage(folder)
        description = self._store.description
        try:
            dimension, metric = int(description["dimension"]), str(description["metric"])
            self._rows = VectorIndex(dimension, metric, mesh)
            self._vote = KnnConfig(**description.get("vote", {}))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder}: its manifest is damaged: {error}") from error
        for part in self._store.vectors():
            if part.shape[1] != dimension:
                raise UserError(f"{folder}: vectors of {part.shape[1]} numbers, not {dimension}")
            self._rows.add(part)
        gone = [row for row, picture in enumerate(self._store.pictures) if picture is None]
        self._rows.remove(gone)
        self._tags = None

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        dimension: int,
        metric: str = "cosine",
        features: dict[str, Any],
        vote: KnnConfig = DEFAULT_KNN,
        mesh: Mesh | None = None,
    ) -> "TagIndex":
        """An empty index; `features` (JSON) says how pictures become vectors [dimension]."""
        if metric not in METRICS:
            raise UserError(f"metric {metric!r}: must be one of {', '.join(METRICS)}")
        description = {"dimension": dimension, "metric": metric, "features": features}
        description["vote"] = dataclasses.asdict(vote)
        IndexStorage.create(folder, description)
        return cls(folder, mesh)

    def __len__(self) -> int:
        """Pictures in the index."""
        return len(self._store.files)

    def __contains__(self, file: object) -> bool:
        return file in self._store.files

    @property
    def _who_has_what(self) -> csr_array:
        if self._tags is None:
            self._tags = self._store.tags()
        return self._tags

    @property
    def features(self) -> dict[str, Any]:
        """How pictures become vectors, as given to `create`."""
        return self._store.description["features"]

    @property
    def metric(self) -> str:
        """One of METRICS."""
        return self._rows.metric

    @property
    def tag_names(self) -> list[str]:
        """What `scores` has columns for."""
        return self._store.tag_names

    def tag_counts(self) -> dict[str, int]:
        """Tag -> how many pictures have it."""
        counts = self._who_has_what.sum(0).astype(int).tolist()
        return dict(zip(self.tag_names, counts, strict=True))

    def add(self, files: Sequence[str], vectors: np.ndarray, tags: Sequence[Iterable[str]]) -> None:
        """Adds pictures with their tags, known ones or new.

        Args:
          files: names, each one new to the index.
          vectors: [M, dimension].

        Raises:
          UserError: a picture is there already; nothing is added then.
        """
        if len(files):
            self._rows.checked(vectors)
            self._store.add(files, vectors, tags)
            self._rows.add(vectors)
            self._tags = None

    def remove(self, files: Iterable[str]) -> None:
        """Removes pictures. Their vectors stay on disk until `Store.compact`."""
        self._rows.remove(self._store.remove(files))
        self._tags = None

    def tag(self, name: str, files: Iterable[str]) -> None:
        """Gives pictures of the index a tag, which may be new."""
        self._store.tag(name, files)
        self._tags = None

    def untag(self, name: str, files: Iterable[str] | None = None) -> None:
        """Takes a tag from pictures; without `files` the tag itself is removed."""
        self._store.untag(name, files)
        self._tags = None

    def search(
        self, vectors: np.ndarray, count: int, approximate: bool = False
    ) -> list[list[tuple[str, float]]]:
        """The nearest pictures of each vector [Q, dimension]: (file, score), nearest first."""
        scores, numbers = self._rows.search(vectors, count, approximate)
        files = [picture.file if picture else "" for picture in self._store.pictures]
        return [
            [(files[n], float(s)) for n, s in zip(row, score, strict=True) if n >= 0]
            for row, score in zip(numbers, scores, strict=True)
        ]

    def scores(self, vectors: np.ndarray, vote: KnnConfig | None = None) -> np.ndarray:
        """How much its neighbours speak for each tag of a vector, float32 [Q, tags] in [0, 1]."""
        vote = self._vote if vote is None else vote
        if vote.propagate:
            found = self._rows.scores(vectors)
            return voting.propagate(found, self._who_has_what, vote.neighbours, vote.temperature)
        scores, numbers = self._rows.search(vectors, vote.neighbours)
        return voting.vote(scores, numbers, self._who_has_what, vote.temperature)

    def tags(
        self, vectors: np.ndarray, count: int, vote: KnnConfig | None = None
    ) -> list[list[tuple[str, float]]]:
        """The `count` tags that score highest for each vector, and above 0: (tag, score)."""
        names, found = self.tag_names, []
        for scores in self.scores(vectors, vote):
            best = np.argsort(-scores, kind="stable")[:count]
            found.append([(names[i], float(scores[i])) for i in best if scores[i] > 0])
        return found
