"""Mixtures: shares by weight at each place of the stream, labels by name, exact resume."""

import pickle
from typing import ClassVar

import numpy as np
import pytest

from jaxtag.data.mixture import MixtureSampler, MixtureSource
from jaxtag.data.pipeline import ExampleSpec, train_batches
from jaxtag.data.sources import as_data_source, tag_counts
from jaxtag.data.targets import ClassLabel
from jaxtag.data.transforms import Resize
from jaxtag.errors import UserError

PIXEL = np.zeros((1, 1, 3), np.uint8)


class Labelled:
    """Records of one class each of `NAMES`, by number."""

    NAMES: ClassVar = ["cat", "dog"]

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        return [{"image": PIXEL, "file": str(i), "label": self.labels[i]} for i in indices]

    def class_names(self, feature):
        return self.NAMES


class OtherLabelled(Labelled):
    NAMES: ClassVar = ["bird", "cat"]


def mixture(weights=(3.0, 1.0)):
    sources = [Labelled([0, 1, 1, 0, 1]), OtherLabelled([1, 0, 1])]
    return MixtureSource(list(map(as_data_source, sources)), weights)


@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.3), (1, 2, 5), (1, 1e-9)])
def test_each_source_has_its_share_of_each_stretch(weights):
    sizes = [70, 1000, 3][: len(weights)]
    parts = list(zip(sizes, weights, strict=True))
    order = MixtureSampler(parts, batch_size=500, seed=1)
    ends = np.cumsum(sizes)
    drawn = np.stack([np.searchsorted(ends, order(batch), side="right") for batch in range(40)])
    counts = np.stack([np.bincount(row, minlength=len(sizes)) for row in drawn])
    shares = np.array(weights) / sum(weights)
    exact = np.maximum(1, 10_000 * shares)
    assert (abs(counts[:20].sum(0) - exact) <= 1).all()
    assert (counts[:20].sum(0) == counts[20:].sum(0)).all()
    spread = np.sqrt(500 * shares * (1 - shares)) + 1
    assert (abs(counts - 500 * shares) < 5 * spread).all()
    assert (drawn[:20] != drawn[20:]).any()


def test_each_source_is_taken_in_shuffled_epochs_of_its_own():
    order = MixtureSampler([(7, 1.0), (30, 2.0)], batch_size=100, seed=1)
    stream = np.concatenate([order(batch) for batch in range(300)])
    for first, size in [(0, 7), (7, 30)]:
        taken = np.bincount(stream, minlength=37)[first : first + size]
        # The last epochs of each period are drawn in another order than they are counted in.
        assert taken.max() - taken.min() <= 1


def test_a_batch_depends_on_its_number_alone():
    order = MixtureSampler([(70, 1.0), (10**12, 2.0)], batch_size=64, seed=1)
    copy = pickle.loads(pickle.dumps(order))
    for number in (10**9, 3, 0):
        np.testing.assert_array_equal(order(number), copy(number))
    other = MixtureSampler([(70, 1.0), (10**12, 2.0)], batch_size=64, seed=2)
    assert (order(0) != other(0)).any()


def test_labels_are_matched_by_name():
    source = mixture()
    assert source.class_names() == source.declared_names("label") == ["cat", "dog", "bird"]
    records = source.__getitems__([7, 0, 6, 4, 5])
    assert [record["label"] for record in records] == [0, 0, 2, 1, 0]
    assert [record["file"] for record in records] == ["2", "0", "1", "4", "0"]
    labels = [record["label"] for record in source.iter_fields(["label"])]
    assert labels == [record["label"] for record in source.__getitems__(range(8))]
    assert set(source.features) == {"image", "file", "label"}


def test_tags_that_a_source_does_not_know_are_unlabeled_in_it():
    parts = [
        as_data_source([{"image": PIXEL, "tags": [0], "file": "a"}], {"tags": ["sea", "sky"]}),
        as_data_source([{"image": PIXEL, "tags": [1]}], {"tags": ["sky", "sun"]}),
    ]
    source = MixtureSource(parts, (1, 1))
    first, second = source.__getitems__([0, 1])
    assert source.class_names("tags") == ["sea", "sky", "sun"]
    assert first == {"image": PIXEL, "tags": [0], "unknown_tags": [2]}  # no file: one lacks it
    assert second["tags"] == [2] and second["unknown_tags"] == [0]
    assert tag_counts(source, 3).tolist() == [1, 0, 1]


def test_resume_is_exact_and_batches_hold_what_was_drawn():
    source, example = mixture(), ExampleSpec(Resize(8), {"label": ClassLabel()})

    def batches():
        order = MixtureSampler(source.mixture_parts(), batch_size=16, seed=3)
        return train_batches(source, example=example, batch_size=16, seed=3, sampler=order)

    iterator = batches()
    expected = [next(iterator) for _ in range(4)]
    iterator.close()
    labels = np.array([record["label"] for record in source.__getitems__(range(8))])
    for batch in expected:
        np.testing.assert_array_equal(batch["label"], labels[batch["index"]])
    resumed = batches()
    resumed.set_state({"batches": 3})
    np.testing.assert_array_equal(next(resumed)["index"], expected[3]["index"])
    resumed.close()


def test_fingerprints_tell_mixtures_apart():
    assert mixture().fingerprint()["examples"] == 8
    other = MixtureSource(
        [as_data_source(Labelled([0, 1])), as_data_source(Labelled([1] * 6))], (1, 1)
    )
    assert other.fingerprint() != mixture().fingerprint()


def test_an_empty_source_is_named():
    with pytest.raises(UserError, match="Labelled is empty"):
        MixtureSource([as_data_source(Labelled([1])), as_data_source(Labelled([]))], (1, 1))
