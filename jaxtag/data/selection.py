"""Some records of a source, as a source of their own."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtag.data.sources import Record, Source


class SelectedRecords(Source):
    """The records of another source at some indices.

    Args:
        source: holds them.
        indices: int [N].
    """

    def __init__(self, source: Source, indices: np.ndarray):
        self.name = source.name
        self._source, self._indices = source, np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        return self._source.__getitems__(self._indices[list(indices)].tolist())

    @property
    def features(self) -> Mapping[str, Any]:
        return self._source.features

    def class_names(self, feature: str = "label") -> list[str]:
        return self._source.class_names(feature)

    def declared_names(self, feature: str) -> list[str] | None:
        return self._source.declared_names(feature)

    def fingerprint(self) -> dict[str, Any]:
        selected = hashlib.sha256(self._indices.tobytes()).hexdigest()[:16]
        return {**self._source.fingerprint(), "examples": len(self), "selected": selected}
