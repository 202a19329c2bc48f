"""Features of a split are computed once, for a model, its weights, pixels and data."""

import numpy as np
import pytest

from jaxtag.data.sources import as_data_source
from jaxtag.datasets.prepared import open_split
from jaxtag.inference import feature_cache, features
from jaxtag.inference.features import FeatureExtractor


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The splits whose features were computed."""
    names: list[str] = []
    of_source = FeatureExtractor.of_source

    def counted(self, source):
        names.append(source.name)
        return of_source(self, source)

    monkeypatch.setattr(FeatureExtractor, "of_source", counted)
    return names


def test_a_split_is_computed_once(tiny_data, tmp_path, monkeypatch, computed) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = open_split("tiny", "validation", tiny_data)
    first, second = (
        feature_cache.split_features(features.from_pixels(4), source) for _ in range(2)
    )
    assert len(computed) == 1
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_array_equal(second.positions, np.arange(8))
    feature_cache.split_features(features.from_pixels(5), source)
    feature_cache.split_features(features.from_pixels(4), open_split("tiny", "train", tiny_data))
    assert len(computed) == 3
    [file, *_] = (tmp_path / "jaxtag/features").iterdir()
    for path in (tmp_path / "jaxtag/features").iterdir():
        path.write_bytes(file.read_bytes()[:100])
    again = feature_cache.split_features(features.from_pixels(4), source)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert len(computed) == 4


def test_other_weights_have_another_fingerprint(monkeypatch) -> None:
    extractors = [features.from_pixels(4) for _ in range(2)]
    assert extractors[0].fingerprint == extractors[1].fingerprint
    fields = {name: getattr(extractors[0], name) for name in ("description", "dimension", "mesh")}
    fields |= {name: getattr(extractors[0], name) for name in ("_image", "_compute", "_config")}
    other = FeatureExtractor(**fields, _variables={"a": np.ones(2)})
    another = FeatureExtractor(**fields, _variables={"a": np.zeros(2)})
    assert len({e.fingerprint for e in (extractors[0], other, another)}) == 3


def test_records_in_memory_are_not_kept(tmp_path, monkeypatch, computed) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = as_data_source([{"image": np.full((8, 8, 3), 7, np.uint8)}] * 3)
    for _ in range(2):
        feature_cache.split_features(features.from_pixels(4), source)
    assert len(computed) == 2 and not list(tmp_path.iterdir())
