"""A frozen backbone's outputs of all images of a source, in one array beside the records."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtag.data.batching import ExampleSpec
from jaxtag.data.sources import Record, Source, SourceView
from jaxtag.storage import atomic_file

FIELD = "backbone_features"  # of a record and of a batch
_DECODED = ".decoded.npy"


def cache_folder() -> Path | None:
    """`jaxtag/features` of the user's cache folder; None for a user without a home.

    The cache folder is $XDG_CACHE_HOME, or ~/.cache. What is in it may be deleted at any time.
    """
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(cache) / "jaxtag" / "features"


@dataclasses.dataclass(frozen=True)
class FeatureTable:
    """Features of the images of a source.

    Attributes:
        features: float32 [V, N, …], of V views of each image; an array, or a file's that is mapped
            into memory.
        decoded: bool [N], whether an image could be decoded; the features of others are 0.
    """

    features: np.ndarray
    decoded: np.ndarray

    def __getstate__(self) -> dict[str, Any]:
        """A file is opened again by the worker process that gets it, instead of copied."""
        if not isinstance(self.features, np.memmap):
            return self.__dict__
        return {**self.__dict__, "features": self.features.filename}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not isinstance(state["features"], np.ndarray):
            state = {**state, "features": np.load(state["features"], mmap_mode="r")}
        self.__dict__.update(state)

    @classmethod
    def read(cls, path: Path, shape: tuple[int, ...]) -> "FeatureTable | None":
        """The table that `write` wrote; None where there is none of this shape."""
        try:
            features = np.load(path, mmap_mode="r", allow_pickle=False)
            decoded = np.load(path.with_suffix(_DECODED), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return cls(features, decoded) if features.shape == shape else None

    @classmethod
    def write(
        cls,
        path: Path,
        shape: tuple[int, ...],
        parts: Iterable[tuple[np.ndarray, np.ndarray]],
    ) -> "FeatureTable":
        """Writes a table as its rows come, and maps it into memory.

        Args:
            path: a file, `.npy`.
            shape: (V, N, …).
            parts: (features float32 [M, …], whether decoded [M]) of N images for each of V views.

        Raises:
            UserError: the disk is full, or the folder cannot be written to.
        """
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with atomic_file.replacing(path) as partial:
            decoded = []
            with partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for rows, valid in parts:
                    file.write(np.ascontiguousarray(rows, "<f4").data)
                    decoded.append(valid)
            with atomic_file.replacing(path.with_suffix(_DECODED)) as flags, flags.open("wb") as f:
                np.save(f, _decoded(decoded, shape))
        table = cls.read(path, shape)
        assert table is not None
        return table

    @classmethod
    def collect(
        cls, shape: tuple[int, ...], parts: Iterable[tuple[np.ndarray, np.ndarray]]
    ) -> "FeatureTable":
        """The same as `write`, in memory."""
        rows, decoded = zip(*parts, strict=True)
        features = np.concatenate(rows).reshape(shape)
        return cls(features, _decoded(decoded, shape))


def _decoded(parts: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """bool [N], of the images whose every view could be decoded."""
    return np.logical_and.reduce(np.concatenate(parts).reshape(shape[:2]), axis=0)


@dataclasses.dataclass(frozen=True)
class CachedFeatures:
    """The target that takes a record's features, float32 […], of a random one of its views.

    Attributes:
        shape: of the features of an image.
        views: V.
    """

    shape: tuple[int, ...]
    views: int

    @property
    def random(self) -> bool:
        """Whether there are several views to draw from."""
        return self.views > 1

    @property
    def empty(self) -> np.ndarray:
        """Zeros."""
        return np.zeros(self.shape, np.float32)

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        """The features of a view."""
        features: np.ndarray = record[FIELD]
        if not self.random:
            return features[0]
        assert rng is not None
        return features[rng.integers(self.views)]


class FeatureSource(SourceView):
    """Another source whose records also hold features of their images.

    Args:
        source: the records.
        target: takes their features.

    Attributes:
        table: the features; to be set before records are read.
    """

    def __init__(self, source: Source, target: CachedFeatures):
        super().__init__(source)
        self.table: FeatureTable | None = None
        self._target = target

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the table's features, (V, N, …)."""
        return self._target.views, len(self), *self._target.shape

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        return self._with_features(self.source.__getitems__(indices), indices)

    def read_range(self, start: int, stop: int) -> list[Record]:
        return self._with_features(self.source.read_range(start, stop), range(start, stop))

    @property
    def features(self) -> Mapping[str, Any]:
        return {**self.source.features, FIELD: self._target}

    def mixture_parts(self) -> list[tuple[int, float]]:
        return self.source.mixture_parts()

    def fingerprint(self) -> dict[str, Any]:
        return self.source.fingerprint()

    def iter_fields(self, fields: Sequence[str]) -> Iterator[Record]:
        return self.source.iter_fields(fields)

    def _with_features(self, records: list[Record], indices: Sequence[int]) -> list[Record]:
        assert self.table is not None
        features, decoded = self.table.features, self.table.decoded
        return [
            {**record, FIELD: features[:, index]}
            if decoded[index]
            else {**record, FIELD: features[:, index], "error": "a damaged image"}
            for record, index in zip(records, indices, strict=True)
        ]


def with_features(spec: ExampleSpec, source: Any, *, images: bool) -> ExampleSpec:
    """How a record becomes a row, with its features where the source has any.

    Args:
        images: whether such a row holds its image as well.
    """
    features = getattr(source, "features", {})
    if FIELD not in features or not isinstance(features[FIELD], CachedFeatures):
        return spec
    target = features[FIELD]
    image = spec.image if images else None
    return dataclasses.replace(spec, image=image, targets={**spec.targets, FIELD: target})
