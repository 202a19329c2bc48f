"""The tag index: image vectors with tags; new images are tagged by their nearest neighbors."""

from jaxtag.tag_index.index import DEFAULT_KNN, TWO_PASS, KnnConfig, TagIndex
from jaxtag.tag_index.storage import IndexStorage
from jaxtag.tag_index.vectors import METRICS, VectorIndex

__all__ = [
    "DEFAULT_KNN",
    "METRICS",
    "TWO_PASS",
    "IndexStorage",
    "KnnConfig",
    "TagIndex",
    "VectorIndex",
]
