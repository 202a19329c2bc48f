"""Features of a whole split, computed once and kept: by model, weights, pixels and data.

They are in `feature_table.cache_folder()`, one file a split.
"""

import dataclasses
import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtag.data import feature_table
from jaxtag.data.sources import Source
from jaxtag.errors import UserError
from jaxtag.inference.features import FeatureExtractor
from jaxtag.storage import atomic_file


@dataclasses.dataclass(frozen=True)
class SplitFeatures:
    """The vectors of a split's images.

    Attributes:
        positions: int [M], of the images that could be decoded.
        vectors: float32 [M, D], theirs.
    """

    positions: np.ndarray
    vectors: np.ndarray


def split_features(extractor: FeatureExtractor, source: Source) -> SplitFeatures:
    """The vectors of a split, from the cache where they were computed before.

    Data that a fingerprint does not tell from others, such as records in memory, are not kept.
    Images that cannot be decoded are left out; a line on stderr says how many.
    """
    path = _path(extractor, source)
    cached = None if path is None else _read(path)
    if cached is not None:
        return cached
    batches = list(extractor.of_source(source))
    num_errors = sum(len(batch.errors) for batch in batches)
    if num_errors and jax.process_index() == 0:
        print(f"left out of {source.name}: {num_errors} damaged images", file=sys.stderr)
    features = SplitFeatures(
        np.concatenate([batch.positions for batch in batches]),
        np.concatenate([batch.vectors for batch in batches]),
    )
    if path is not None and not num_errors:
        _write(path, features)
    return features


def _path(extractor: FeatureExtractor, source: Source) -> Path | None:
    """Where the vectors are kept; None for data without a digest and users without a home.

    None for several processes too: they compute together, and each has a cache of its own.
    """
    fingerprint, folder = source.fingerprint(), feature_table.cache_folder()
    if folder is None or "digest" not in fingerprint or jax.process_count() > 1:
        return None
    key: dict[str, Any] = {"features": extractor.fingerprint, "data": [source.name, fingerprint]}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"{digest[:32]}.npz"


def _read(path: Path) -> SplitFeatures | None:
    """None where there is no file, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return SplitFeatures(arrays["positions"], arrays["vectors"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, features: SplitFeatures) -> None:
    """Keeps the vectors, where that is possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file.replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, positions=features.positions, vectors=features.vectors)
    except (OSError, UserError) as error:
        print(f"warning: features are not kept: {error}", file=sys.stderr)
