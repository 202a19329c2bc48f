"""Shuffled passes, and batches of P classes with K pictures each: even, exact after a resume."""

import pickle

import numpy as np
import pytest

from jaxtag.data.pipeline import ExampleSpec, train_batches
from jaxtag.data.samplers import (
    BlockShuffleSampler,
    ClassBalancedSampler,
    ShuffleSampler,
    StoredShuffleSampler,
)
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


def blocks(count, batch_size=16, block_size=4, buffer_size=64, seed=4):
    return BlockShuffleSampler(
        count, batch_size=batch_size, block_size=block_size, buffer_size=buffer_size, seed=seed
    )


@pytest.mark.parametrize("kind", [ShuffleSampler, StoredShuffleSampler])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_shuffled_passes_hold_each_record_once_in_new_orders(kind, batch_size):
    order = kind(10, batch_size=batch_size, seed=4)
    stream = np.concatenate([order(batch) for batch in range(-(-60 // batch_size))])
    passes = stream[:60].reshape(6, 10)
    np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(10), (6, 1)))
    assert len({tuple(one) for one in passes.tolist()}) == 6
    other = kind(10, batch_size=7, seed=4)
    np.testing.assert_array_equal(other(1), stream[7:14])


@pytest.mark.parametrize("make", [ShuffleSampler, StoredShuffleSampler, blocks])
def test_a_shuffled_batch_depends_on_the_seed_and_its_number_alone(make):
    order, other = (make(1000, batch_size=64, seed=s) for s in (1, 2))
    copy = pickle.loads(pickle.dumps(order))
    for number in (7, 3, 10**6, 15, 16):
        np.testing.assert_array_equal(order(number), copy(number))
        assert (order(number) != other(number)).any()


def test_chunks_of_a_shuffled_order_meet():
    orders = [ShuffleSampler(5000, batch_size=size, seed=4) for size in (20000, 300)]
    stream = np.concatenate([orders[1](number) for number in range(67)])
    np.testing.assert_array_equal(stream[:20000], orders[0](0))


def test_records_beyond_32_bits_are_shuffled_without_keeping_anything():
    order = ShuffleSampler(10**13, batch_size=4096, seed=4)
    records = np.concatenate([order(number) for number in (0, 1, 10**9)])
    assert len(np.unique(records)) == 3 * 4096 and (records >= 0).all()
    assert (np.bincount(records // 10**12, minlength=10) > 1000).all()
    assert sum(chunk.nbytes for chunk in order._chunks.values()) <= 2 * 8192 * 8


@pytest.mark.parametrize(
    ("count", "batch_size", "block_size", "buffer_size"),
    [(10, 4, 2, 8), (1000, 6, 16, 100), (997, 64, 4, 600), (100, 256, 8, 64), (1, 8, 4, 4)],
)
def test_blocks_hold_each_record_once_an_epoch(count, batch_size, block_size, buffer_size):
    order = blocks(count, batch_size, block_size, buffer_size)
    lanes = np.arange(batch_size).reshape(order.num_lanes, -1).T.ravel()
    stream = [order(batch)[lanes] for batch in range(-(-3 * count // batch_size))]
    epochs = np.concatenate(stream)[: 3 * count].reshape(3, count)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(count), (3, 1)))
    if count > 10:
        assert (epochs[0] != epochs[1]).any()


def test_a_lane_holds_one_window_of_blocks_at_a_time():
    order = blocks(4096, batch_size=16, block_size=8, buffer_size=512)  # 4 blocks for each lane
    located = [order.locate(batch, np.arange(16)) for batch in range(256)]
    assert max(rows.offsets.max() for rows in located) == 7
    for lane in range(16):
        assert {int(rows.lanes[lane]) for rows in located} == {lane}
        keys = [(rows.windows[lane], rows.starts[lane], rows.lengths[lane]) for rows in located]
        windows = [window for window, _, _ in keys]
        assert windows == sorted(windows)
        for window in set(windows):
            held = {key for key in keys if key[0] == window}
            assert len(held) <= 4
            assert windows.count(window) == sum(length for _, _, length in held)


def test_a_block_is_of_neighbors_and_a_batch_of_records_from_everywhere():
    order = blocks(100_000, batch_size=64, block_size=16, buffer_size=4096)
    means = [order(number).mean() for number in range(1000)]
    assert abs(np.mean(means) - 50_000) < 500
    rows = np.arange(64)
    starts = np.unique(np.concatenate([order.locate(n, rows).starts for n in range(64)]))
    assert 64 * 4 <= len(starts) < 64 * 8  # 4096 rows: a full window of each lane, or parts of two


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
