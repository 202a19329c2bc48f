"""Attention in parts of the batch, as TPUs compute it, against all at once."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtag.distributed import mesh as meshes
from jaxtag.kernels import attention, layers

SHAPE = (16, 3, 5, 8)  # examples, heads, positions, width


def operands(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, SHAPE, dtype) for key in keys]


def causal():
    return jnp.tril(jnp.ones((1, 1, SHAPE[2], SHAPE[2]), bool))


@pytest.mark.parametrize("mask", [None, causal()])
@pytest.mark.parametrize("parts", [2, 16])
def test_parts_change_neither_values_nor_gradients(mask, parts):
    attend = partial(attention._attend, mask=mask, dropout=None)

    def values_and_gradients(form):
        found, back = jax.vjp(jax.jit(form), *operands())
        return found, *back(jnp.cos(jnp.arange(found.size)).reshape(found.shape))

    expected = values_and_gradients(attend)
    found = values_and_gradients(partial(layers.chunked_map, attend, parts))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_each_device_keeps_its_own_examples():
    mesh = meshes.make_mesh()
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    attend = partial(attention._attend, mask=None, dropout=None)
    form = jax.jit(partial(layers.chunked_map, attend, 2), out_shardings=split)
    placed = jax.device_put(operands(), split)
    text = form.lower(*placed).compile().as_text()
    for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert f"{name}(" not in text


def test_parts_are_as_few_as_fit(monkeypatch):
    score = 3 * 5 * 5 * 4  # bytes an example
    query, key, _ = operands()
    for room, expected in ((16 * score, 1), (16 * score - 1, 2), (5 * score, 4), (1, 16)):
        monkeypatch.setattr(attention, "_SCORES", room)
        assert attention._parts(query, key) == expected
    with jax.sharding.use_abstract_mesh(
        meshes.make_mesh().abstract_mesh
    ):  # 8 devices, 2 examples each
        assert attention._parts(query, key) == 2
        assert attention._parts(query[:3], key) == 1


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_tpus_alone_take_parts(platform, monkeypatch):
    monkeypatch.setattr(attention, "_SCORES", 2000)
    form = jax.jit(attention.head_major_attention)
    text = form.trace(*operands()).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in text) is (platform == "tpu")


def test_what_all_examples_share_is_added_and_gets_the_sum_of_gradients():
    rng = np.random.RandomState(0)
    x, shared = (jnp.asarray(rng.randn(*s), jnp.float32) for s in ((6, 5, 8), (5, 8)))
    y, back = jax.vjp(layers.add_broadcast, x, shared)
    to_x, to_shared = back(y)
    np.testing.assert_array_equal(y, x + shared)
    np.testing.assert_array_equal(to_x, y)
    np.testing.assert_allclose(to_shared, y.sum(0), rtol=1e-6)
    # What NVIDIA's GPUs compute for it.
    np.testing.assert_allclose(layers._sum_by_product(x), x.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [(8, 6), (7, 6), (8, 5), (7, 5)])
def test_cudnn_gets_even_lengths_and_which_tokens_count(lengths, monkeypatch):
    """JAX refuses it odd ones in training; what it computes is in tests/kernels/test_on_gpu.py."""

    def cudnn(query, key, value, implementation, **counted):
        assert implementation == "cudnn"
        assert query.shape[1] % 2 == key.shape[1] % 2 == value.shape[1] % 2 == 0
        return plain(query, key, value, implementation="xla", **counted)

    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    rng = np.random.RandomState(0)
    length, seen = lengths
    query = jnp.asarray(rng.randn(3, length, 2, 4), jnp.float32)
    key, value = (jnp.asarray(rng.randn(3, seen, 2, 4), jnp.float32) for _ in range(2))
    found = attention._by_cudnn(query, key, value)
    np.testing.assert_allclose(found, attention.attention(query, key, value), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "length", "dim", "taken"),
    [
        (jnp.bfloat16, 196, 64, True),
        (jnp.float32, 196, 64, False),
        (jnp.bfloat16, 24, 64, False),
        (jnp.bfloat16, 196, 60, False),
        (jnp.bfloat16, 196, 192, False),
    ],
)
def test_cudnn_is_asked_for_what_it_can_do(dtype, length, dim, taken, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    query = jax.ShapeDtypeStruct((2, length, 4, dim), dtype)
    assert attention._cudnn_takes(query, query) is taken
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not attention._cudnn_takes(query, query)  # there is no plugin for CUDA
