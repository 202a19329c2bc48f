"""Search against brute force in NumPy: ties, removed rows, padding, many devices, growth."""

import jax
import numpy as np
import pytest

from jaxtag.distributed import mesh as meshes
from jaxtag.tag_index import METRICS, VectorIndex
from jaxtag.tag_index import vectors as vectors_module

D = 16


def brute(rows, queries, metric, count, removed=()):
    """(scores, ids) in float64; of equal scores the lower number first."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "hellinger":
        rows, queries = (np.sign(x) * np.abs(x) ** 0.5 for x in (rows, queries))
    if metric in ("cosine", "hellinger"):
        rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    scores = queries @ rows.T
    if metric == "euclidean":
        scores = -np.square(queries[:, None] - rows[None]).sum(-1)
    scores[:, list(removed)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    best = np.take_along_axis(scores, order, 1)
    order[best == -np.inf] = -1
    return best, order


def random(count, seed, dimension=D):
    return np.random.RandomState(seed).randn(count, dimension).astype(np.float32)


def whole_numbers(count, seed):
    """Vectors whose scores are exact in float32, so that many are equal."""
    return np.random.RandomState(seed).randint(-2, 3, (count, D)).astype(np.float32)


@pytest.fixture(params=[1, 8])
def mesh(request):
    return meshes.make_mesh(devices=jax.devices()[: request.param])


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"], autouse=True)
def rounds(request, monkeypatch):
    """Both first passes, whatever this machine would choose."""
    monkeypatch.setattr(vectors_module, "_prefers_bfloat16", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", [D, pytest.param(700, marks=pytest.mark.slow)])
def test_the_same_as_brute_force(mesh, metric, dimension):
    vectors, queries = random(5000, 0, dimension), random(20, 1, dimension)
    index = VectorIndex(dimension, metric, mesh)
    index.add(vectors)
    scores, ids = index.search(queries, 10)
    expected = brute(vectors, queries, metric, 10)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["inner_product", "euclidean"])
def test_of_equal_scores_the_lower_number_comes_first(mesh, metric):
    vectors, queries = whole_numbers(3000, 0), whole_numbers(20, 1)
    index = VectorIndex(D, metric, mesh)
    index.add(vectors)
    scores, ids = index.search(queries, 10)
    expected = brute(vectors, queries, metric, 10)
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(ids, expected[1])


def test_more_equal_rows_than_any_first_pass_can_tell_apart(mesh):
    vectors = np.repeat(random(2, 0), 2500, axis=0)
    index = VectorIndex(D, "euclidean", mesh)
    index.add(vectors)
    _, ids = index.search(vectors[[0, 2500]], 10)
    np.testing.assert_array_equal(ids, [np.arange(10), np.arange(2500, 2510)])


def test_rows_that_differ_by_less_than_bfloat16_can_say(mesh, rounds):
    vectors = (1 + 1e-4 * random(5000, 0)).astype(np.float32)
    queries = (1 + 1e-4 * random(8, 1)).astype(np.float32)
    index = VectorIndex(D, "euclidean", mesh)
    index.add(vectors)
    exact = brute(vectors, queries, "euclidean", 5)[1]
    np.testing.assert_array_equal(index.search(queries, 5)[1], exact)
    if rounds:
        assert np.any(index.search(queries, 5, approximate=True)[1] != exact)


def test_removed_rows_are_not_found_and_fewer_rows_than_asked_for(mesh):
    vectors, queries = random(40, 0), random(3, 1)
    index = VectorIndex(D, "cosine", mesh)
    index.add(vectors[:25])
    index.remove([3, 7, 24])
    index.add(vectors[25:])
    scores, ids = index.search(queries, 2000)
    expected = brute(vectors, queries, "cosine", 40, removed=(3, 7, 24))
    np.testing.assert_array_equal(ids[:, :40], expected[1])
    assert np.all(ids[:, 37:] == -1) and np.all(scores[:, 37:] == -np.inf)
    all_scores = index.scores(queries)
    assert all_scores.shape == (3, 40) and np.all(all_scores[:, [3, 7, 24]] == -np.inf)
    np.testing.assert_allclose(np.sort(all_scores)[:, ::-1][:, :37], scores[:, :37], atol=1e-6)


def test_growing_keeps_what_is_there(mesh):
    vectors, queries = random(9000, 0), random(5, 1)
    index = VectorIndex(D, "euclidean", mesh)
    for start in range(0, 9000, 3000):
        index.add(vectors[start : start + 3000])
    expected = brute(vectors, queries, "euclidean", 10)[1]
    np.testing.assert_array_equal(index.search(queries, 10)[1], expected)


def test_additions_within_the_room_compile_nothing():
    index = VectorIndex(D, "cosine", meshes.make_mesh(devices=jax.devices()[:1]))
    index.add(random(300, 0))
    index.search(random(2, 1), 5)
    programs = [vectors_module._write, vectors_module._search, vectors_module._grow]

    index.add(random(1, 2))  # a size of its own
    before = [program._cache_size() for program in programs]
    for seed in range(100):
        index.add(random(1, seed))
        index.remove([seed])
        index.search(random(2, seed), 5)
    assert [program._cache_size() for program in programs] == before


def test_a_room_is_at_most_an_eighth_too_large():
    for count in (1, 128, 129, 4096, 4097, 100_000, 1_000_001):
        room = vectors_module._capacity_for(count)
        assert room >= count
        assert room % min(room, 4096) == 0
        assert room <= max(2 * count, 128)
        assert count < 60_000 or room <= 1.126 * count


@pytest.mark.parametrize("wrong", [np.ones((2, D + 1)), np.ones(D), np.full((1, D), np.nan)])
def test_vectors_that_are_none_are_refused(wrong):
    index = VectorIndex(D, "cosine", meshes.make_mesh(devices=jax.devices()[:1]))
    with pytest.raises(ValueError, match="vector"):
        index.add(wrong)
