"""Keyed permutations: bijections that are as likely as each other, at any size."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from jaxtag.data.permutation import make_key, permute


@pytest.mark.parametrize("size", [1, 2, 3, 10, 16, 17, 99, 4097])
def test_each_key_gives_a_bijection(size):
    orders = [permute(np.arange(size), size, make_key(key)) for key in range(10)]
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(size), (10, 1)))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_orders_of_a_few_are_equally_likely(size):
    number = 200 * math.factorial(size)
    keys = make_key(7, np.arange(number))[:, None]
    orders = permute(np.tile(np.arange(size), (number, 1)), size, keys)
    counts = Counter(map(tuple, orders.tolist()))
    observed = [counts[order] for order in itertools.permutations(range(size))]
    assert stats.chisquare(observed).pvalue > 0.001


def test_positions_say_nothing_of_where_they_go():
    size, number = 1000, 1000
    keys = make_key(1, np.arange(number))[:, None]
    orders = permute(np.tile(np.arange(size), (number, 1)), size, keys).astype(float)
    centered, positions = orders - (size - 1) / 2, np.arange(size) - (size - 1) / 2
    rank_correlations = centered @ positions / (positions @ positions)
    normal = rank_correlations * math.sqrt(size - 1)
    assert abs(normal.mean()) < 0.15 and 0.9 < normal.std() < 1.1
    neighbors = (centered[:, 1:] * centered[:, :-1]).mean() / centered.var()
    assert abs(neighbors + 1 / (size - 1)) < 0.005


def test_permutations_of_different_sizes_and_keys_in_one_call():
    sizes, keys = np.array([5, 7, 10**15]), make_key(3, np.arange(3))
    together = permute(np.array([4, 2, 10**14]), sizes, keys)
    alone = [
        permute(np.array([p]), n, k)[0] for p, n, k in zip([4, 2, 10**14], sizes, keys, strict=True)
    ]
    np.testing.assert_array_equal(together, alone)
    assert (together < sizes).all()


def test_each_part_of_a_key_counts():
    keys = [make_key(*parts) for parts in [(1, 2), (2, 1), (1,), (1, 2, 0), (2**64 - 1, 2)]]
    assert len(set(map(int, keys))) == 5
