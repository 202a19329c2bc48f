"""Metrics of an index on images whose tags or classes are known."""

import numpy as np
import pytest

from jaxtag.data.sources import as_data_source
from jaxtag.tag_index import TagIndex, evaluation

VECTORS = np.eye(4, dtype=np.float32)


@pytest.fixture
def index(tmp_path) -> TagIndex:
    index = TagIndex.create(tmp_path / "index", dimension=4, features={})
    index.add(["a.jpg", "b.jpg"], VECTORS[:2], [["sea", "sky"], ["dog"]])
    return index


def test_tags_that_the_index_lacks_are_missed(index) -> None:
    names = {"tags": ["dog", "sea", "sky", "zebra"]}
    records = [
        {"image": b"", "tags": ["sky", "sea"]},
        {"image": b"", "tags": []},  # its image is damaged: it has no vector
        {"image": b"", "tags": ["dog", "zebra"]},
    ]
    source = as_data_source(records, names)
    metrics = evaluation.evaluate(index, VECTORS[:2], source, np.array([0, 2]))
    assert metrics["examples"] == 2
    assert metrics["n+"] == 4  # five of four tags are given to each image
    assert metrics["map"] == pytest.approx((1 + 1 + 1 + 1 / 2) / 4, abs=0.13)
    only = as_data_source(records[:1], names)
    assert evaluation.evaluate(index, VECTORS[:1], only, np.array([0]))["map"] == 1.0


def test_classes_are_right_or_wrong(index) -> None:
    labels = {"label": ["dog", "sea"]}
    records = [{"image": b"", "label": 1}, {"image": b"", "label": 1}, {"image": b"", "label": 0}]
    source = as_data_source(records, labels)
    vectors = VECTORS[[0, 1, 1]]
    index.untag("sky")
    metrics = evaluation.evaluate(index, vectors, source, np.arange(3))
    assert metrics == {"top1": pytest.approx(2 / 3), "examples": 3.0}
