"""A tag index: vectors of images with their tags, stored on disk and searched on the devices."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from scipy.sparse import csr_array

from jaxtag.errors import UserError
from jaxtag.tag_index import voting
from jaxtag.tag_index.storage import IndexStorage
from jaxtag.tag_index.vectors import METRICS, VectorIndex


@dataclasses.dataclass(frozen=True)
class KnnConfig:
    """How neighbors vote for tags; stored with an index.

    Attributes:
        neighbors: number of neighbors that vote; with `two_pass`, per tag.
        temperature: divides the scores before their softmax.
        two_pass: two-pass kNN (see `voting.two_pass_vote`), for data with many rare tags.
    """

    neighbors: int = 20
    temperature: float = 0.05
    two_pass: bool = False

    def to_json(self) -> dict[str, Any]:
        """The fields under the names that the manifest of an index has."""
        return {
            "neighbours": self.neighbors,
            "temperature": self.temperature,
            "propagate": self.two_pass,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "KnnConfig":
        """The inverse of `to_json`; absent fields have their defaults."""
        fields = {"neighbours": "neighbors", "propagate": "two_pass"}
        config = cls(**{fields.get(name, name): value for name, value in values.items()})
        if type(config.neighbors) is not int or config.neighbors < 1:
            raise ValueError(f"neighbours: {config.neighbors!r} is no positive number")
        if not isinstance(config.temperature, int | float) or not 0 < config.temperature < 1e9:
            raise ValueError(f"temperature: {config.temperature!r} is no positive number")
        return config


DEFAULT_KNN = KnnConfig()
TWO_PASS = KnnConfig(neighbors=5, temperature=0.02, two_pass=True)


class TagIndex:
    """Images with vectors and tags. It grows at run time: nothing is trained or recompiled.

    Args:
        folder: of an index that `create` made.
        mesh: devices that hold its vectors; by default all.

    Raises:
        UserError: there is no index, or it is damaged.
    """

    def __init__(self, folder: Path, mesh: Mesh | None = None):
        self._storage = IndexStorage(folder)
        description = self._storage.description
        try:
            dimension, metric = description["dimension"], str(description["metric"])
            if type(dimension) is not int or dimension < 1:
                raise ValueError(f"dimension: {dimension!r} is no positive number")
            self._vectors = VectorIndex(dimension, metric, mesh)
            self._knn = KnnConfig.from_json(description.get("vote", {}))
        except (AttributeError, LookupError, TypeError, ValueError, UserError) as error:
            raise UserError(f"{folder}: its manifest is damaged: {error}") from error
        for vectors in self._storage.vectors():
            if vectors.shape[1] != dimension:
                raise UserError(f"{folder}: vectors of {vectors.shape[1]} numbers, not {dimension}")
            self._vectors.add(vectors)
        self._vectors.remove([row for row, entry in enumerate(self._storage.entries) if not entry])
        self._cached_tag_matrix: csr_array | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        dimension: int,
        metric: str = "cosine",
        features: dict[str, Any],
        knn: KnnConfig = DEFAULT_KNN,
        mesh: Mesh | None = None,
        building: bool = False,
    ) -> "TagIndex":
        """Creates an empty index.

        Args:
            folder: where it is stored.
            dimension: of the vectors.
            metric: one of METRICS.
            features: JSON that says how images become vectors.
            knn: how neighbors vote by default.
            mesh: devices that hold its vectors; by default all.
            building: it is unfinished until `finish_building`: until then `create` goes on with
                it, with the images that it has.
        """
        if metric not in METRICS:
            raise UserError(f"metric {metric!r}: must be one of {', '.join(METRICS)}")
        description = {"dimension": dimension, "metric": metric, "features": features}
        description["vote"] = knn.to_json()
        IndexStorage.create(folder, description, building=building)
        return cls(folder, mesh)

    def finish_building(self) -> None:
        """Marks an index that `create` began as finished."""
        self._storage.finish_building()

    def __len__(self) -> int:
        """The number of images in the index."""
        return len(self._storage.files)

    def __contains__(self, file: object) -> bool:
        return file in self._storage.files

    @property
    def _tag_matrix(self) -> csr_array:
        """Float32 [rows, tags], 1 where an image has a tag."""
        if self._cached_tag_matrix is None:
            self._cached_tag_matrix = self._storage.tags()
        return self._cached_tag_matrix

    @property
    def features(self) -> dict[str, Any]:
        """How images become vectors, as given to `create`."""
        features = self._storage.description.get("features")
        return features if isinstance(features, dict) else {}

    @property
    def metric(self) -> str:
        """One of METRICS."""
        return self._vectors.metric

    @property
    def tag_names(self) -> list[str]:
        """The names of the columns of `scores`."""
        return self._storage.tag_names

    def tag_counts(self) -> dict[str, int]:
        """The number of images with each tag, by name."""
        counts = self._tag_matrix.sum(0).astype(int).tolist()
        return dict(zip(self.tag_names, counts, strict=True))

    def add(
        self,
        files: Sequence[str],
        vectors: np.ndarray,
        tags: Sequence[Iterable[str]],
    ) -> None:
        """Adds images with their tags, existing ones or new.

        Args:
            files: names of the images, each new to the index.
            vectors: of the images, [M, D].
            tags: of each image.

        Raises:
            UserError: an image exists already; nothing is added then.
        """
        if len(files):
            self._vectors.prepare(vectors)  # raises before anything is written
            self._storage.add(files, vectors, tags)
            self._vectors.add(vectors)
            self._cached_tag_matrix = None

    def remove(self, files: Iterable[str]) -> None:
        """Removes images. Their vectors stay on disk until `IndexStorage.compact`."""
        self._vectors.remove(self._storage.remove(files))
        self._cached_tag_matrix = None

    def tag(self, name: str, files: Iterable[str]) -> None:
        """Adds a tag, which may be new, to images of the index."""
        self._storage.tag(name, files)
        self._cached_tag_matrix = None

    def untag(self, name: str, files: Iterable[str] | None = None) -> None:
        """Removes a tag from images; without `files`, removes the tag itself."""
        self._storage.untag(name, files)
        self._cached_tag_matrix = None

    def search(
        self, vectors: np.ndarray, count: int, approximate: bool = False
    ) -> list[list[tuple[str, float]]]:
        """The nearest images of each vector of [Q, D]: (file, score), nearest first."""
        scores, ids = self._vectors.search(vectors, count, approximate)
        files = [entry.file if entry else "" for entry in self._storage.entries]
        return [
            [(files[i], float(s)) for i, s in zip(row, row_scores, strict=True) if i >= 0]
            for row, row_scores in zip(ids, scores, strict=True)
        ]

    def scores(self, vectors: np.ndarray, knn: KnnConfig | None = None) -> Float[np.ndarray, "Q T"]:
        """The kNN score of each tag for each vector of [Q, D], float32 in [0, 1]."""
        knn = self._knn if knn is None else knn
        if knn.two_pass:
            similarities = self._vectors.scores(vectors)
            return voting.two_pass_vote(
                similarities, self._tag_matrix, knn.neighbors, knn.temperature
            )
        similarities, ids = self._vectors.search(vectors, knn.neighbors)
        return voting.vote(similarities, ids, self._tag_matrix, knn.temperature)

    def tags(
        self, vectors: np.ndarray, count: int, knn: KnnConfig | None = None
    ) -> list[list[tuple[str, float]]]:
        """The `count` tags with the highest scores above 0 of each vector [Q, D]: (tag, score)."""
        names, rows = self.tag_names, []
        for scores in self.scores(vectors, knn):
            best = np.argsort(-scores, kind="stable")[:count]
            rows.append([(names[i], float(scores[i])) for i in best if scores[i] > 0])
        return rows
