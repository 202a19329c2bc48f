"""Shuffled passes, and batches of P classes with K pictures each: even, exact after a resume."""

import pickle

import numpy as np
import pytest

from jaxtag.data.pipeline import ExampleSpec, train_batches
from jaxtag.data.samplers import ClassBalancedSampler, ShuffleSampler
from jaxtag.data.targets import ClassLabel
from jaxtag.data.transforms import Resize
from jaxtag.errors import UsageError

LABELS = np.array([4] * 9 + [0] * 6 + [7] * 2 + [2] * 12 + [5] * 7)[
    np.random.default_rng(0).permutation(36)
]
OPTIONS = {"batch_size": 6, "samples_per_class": 3}


def members(labels=LABELS):
    return [np.flatnonzero(labels == one) for one in np.unique(labels)]


class Records:
    """Pictures that no decoder knows; their classes are what counts."""

    def __len__(self):
        return len(LABELS)

    def __getitems__(self, indices):
        return [{"image": b"", "label": LABELS[index]} for index in indices]


def batches(seed=5, **options):
    order = ClassBalancedSampler(members(), **OPTIONS, seed=seed)
    example = ExampleSpec(Resize(8), {"label": ClassLabel()})
    return train_batches(
        Records(), example=example, batch_size=6, seed=seed, sampler=order, **options
    )


def take(iterator, count):
    taken = [next(iterator) for _ in range(count)]
    iterator.close()
    return taken


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_shuffled_passes_hold_each_record_once_in_new_orders(batch_size):
    order = ShuffleSampler(10, batch_size=batch_size, seed=4)
    stream = np.concatenate([order(batch) for batch in range(-(-60 // batch_size))])
    passes = stream[:60].reshape(6, 10)
    np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(10), (6, 1)))
    assert len({tuple(one) for one in passes.tolist()}) == 6
    other = ShuffleSampler(10, batch_size=7, seed=4)
    np.testing.assert_array_equal(other(1), stream[7:14])


def test_a_shuffled_batch_depends_on_the_seed_and_its_number_alone():
    order, other = (ShuffleSampler(1000, batch_size=64, seed=s) for s in (1, 2))
    copy = pickle.loads(pickle.dumps(order))
    for number in (7, 3, 10**6, 15, 16):
        np.testing.assert_array_equal(order(number), copy(number))
        assert (order(number) != other(number)).any()


def test_a_batch_has_k_pictures_of_each_of_p_classes():
    order = ClassBalancedSampler(members(), **OPTIONS, seed=0)
    for number in range(300):
        index = order(number)
        classes, counts = np.unique(LABELS[index], return_counts=True)
        assert len(classes) == 2 and (counts == 3).all()
        for one in set(classes) - {7}:  # which has 2
            assert len(np.unique(index[LABELS[index] == one])) == 3


def test_classes_and_their_pictures_come_evenly_in_new_orders():
    order = ClassBalancedSampler(members(LABELS[LABELS != 7]), **OPTIONS, seed=0)
    labels = LABELS[LABELS != 7]
    rounds = [np.concatenate([order(2 * r), order(2 * r + 1)]) for r in range(4)]
    for index in rounds:
        assert (np.unique(labels[index], return_counts=True)[1] == 3).all()
    # Four rounds show 12 pictures of each class: all of the largest once, the class of six twice.
    drawn = np.bincount(np.concatenate(rounds), minlength=len(labels))
    assert (drawn[labels == 2] == 1).all() and (drawn[labels == 0] == 2).all()
    assert len({tuple(labels[index]) for index in rounds}) > 1
    passes = np.concatenate([index[labels[index] == 0] for index in rounds]).reshape(2, 6)
    assert (passes[0] != passes[1]).any()


def test_what_is_left_over_in_a_round_changes():
    order = ClassBalancedSampler(members(), **OPTIONS, seed=0)
    rounds = [np.concatenate([order(2 * r), order(2 * r + 1)]) for r in range(40)]
    absent = {(set(LABELS.tolist()) - set(LABELS[index].tolist())).pop() for index in rounds}
    assert absent == set(LABELS.tolist())


def test_the_seed_and_the_number_decide():
    order, other = (ClassBalancedSampler(members(), **OPTIONS, seed=s) for s in (1, 2))
    copy = pickle.loads(pickle.dumps(order))
    for number in (7, 3, 10**9):
        np.testing.assert_array_equal(order(number), copy(number))
    assert any((order(n) != other(n)).any() for n in range(3))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batch(processes):
    expected = take(batches(), 4)
    shares = [np.arange(i, 6, processes) for i in range(processes)]
    parts = [take(batches(rows=own), 4) for own in shares]
    for step, expected_batch in enumerate(expected):
        index = np.empty(6, int)
        for own, part in zip(shares, parts, strict=True):
            index[own] = part[step]["index"]
        np.testing.assert_array_equal(index, expected_batch["index"])
        np.testing.assert_array_equal(LABELS[index], expected_batch["label"])


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_is_exact(workers):
    expected = take(batches(), 5)
    first = batches()
    next(first), next(first)
    state = first.get_state()
    first.close()
    second = batches(num_workers=workers)
    second.set_state(state)
    for got, expected_batch in zip(take(second, 3), expected[2:], strict=True):
        np.testing.assert_array_equal(got["index"], expected_batch["index"])


def test_too_few_classes_are_named():
    with pytest.raises(UsageError, match=r"only 5 have images: take at least 4"):
        ClassBalancedSampler(members(), batch_size=18, samples_per_class=3, seed=0)
