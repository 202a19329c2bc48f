"""Some records of a source, as a source of their own."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtag.data.sources import Record, Source, SourceView


class SelectedRecords(SourceView):
    """The records of another source at some indices.

    Args:
        source: holds them.
        indices: int [N].
    """

    def __init__(self, source: Source, indices: np.ndarray):
        super().__init__(source)
        self._indices = np.asarray(indices, np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        return self.source.__getitems__(self._indices[list(indices)].tolist())

    def fingerprint(self) -> dict[str, Any]:
        selected = hashlib.sha256(self._indices.tobytes()).hexdigest()[:16]
        return {**super().fingerprint(), "selected": selected}
