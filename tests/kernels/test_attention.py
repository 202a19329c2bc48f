"""Attention in chunks of the batch, as TPUs compute it, against all at once."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtag.distributed.mesh import make_mesh
from jaxtag.kernels import attention, layers

SHAPE = (16, 3, 5, 8)  # examples, heads, positions, width


def operands(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, SHAPE, dtype) for key in keys]


def causal():
    return jnp.tril(jnp.ones((1, 1, SHAPE[2], SHAPE[2]), bool))


@pytest.mark.parametrize("mask", [None, causal()])
@pytest.mark.parametrize("chunks", [2, 16])
def test_chunks_change_neither_values_nor_gradients(mask, chunks):
    attend = partial(attention._attend, mask=mask, dropout=None)

    def values_and_gradients(form):
        y, back = jax.vjp(jax.jit(form), *operands())
        return y, *back(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    expected = values_and_gradients(attend)
    results = values_and_gradients(partial(layers.chunked_map, attend, chunks))
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_each_device_keeps_its_own_examples():
    mesh = make_mesh()
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    attend = partial(attention._attend, mask=None, dropout=None)
    form = jax.jit(partial(layers.chunked_map, attend, 2), out_shardings=split)
    operands_on_devices = jax.device_put(operands(), split)
    text = form.lower(*operands_on_devices).compile().as_text()
    for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert f"{name}(" not in text


def test_chunks_are_as_few_as_fit(monkeypatch):
    score = 3 * 5 * 5 * 4  # bytes an example
    query, key, _ = operands()
    for budget, expected in ((16 * score, 1), (16 * score - 1, 2), (5 * score, 4), (1, 16)):
        monkeypatch.setattr(attention, "_SCORE_BYTES", budget)
        assert attention._num_chunks(query, key) == expected
    with jax.sharding.use_abstract_mesh(make_mesh().abstract_mesh):  # 8 devices, 2 examples each
        assert attention._num_chunks(query, key) == 2
        assert attention._num_chunks(query[:3], key) == 1


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_tpus_alone_take_chunks(platform, monkeypatch):
    monkeypatch.setattr(attention, "_SCORE_BYTES", 2000)
    form = jax.jit(attention.head_major_attention)
    text = form.trace(*operands()).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in text) is (platform == "tpu")


def test_add_broadcast_sums_the_gradient_of_the_shared_part():
    rng = np.random.RandomState(0)
    x, shared = (jnp.asarray(rng.randn(*s), jnp.float32) for s in ((6, 5, 8), (5, 8)))
    y, back = jax.vjp(layers.add_broadcast, x, shared)
    x_gradient, shared_gradient = back(y)
    np.testing.assert_array_equal(y, x + shared)
    np.testing.assert_array_equal(x_gradient, y)
    np.testing.assert_allclose(shared_gradient, y.sum(0), rtol=1e-6)
    # What NVIDIA's GPUs compute for it.
    np.testing.assert_allclose(layers._sum_by_product(x), x.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [(8, 6), (7, 6), (8, 5), (7, 5)])
def test_cudnn_gets_even_lengths_and_a_count_of_tokens(lengths, monkeypatch):
    """JAX refuses it odd ones in training; what it computes is in tests/kernels/test_on_gpu.py."""

    def cudnn(query, key, value, implementation, **counted):
        assert implementation == "cudnn"
        assert query.shape[1] % 2 == key.shape[1] % 2 == value.shape[1] % 2 == 0
        return plain(query, key, value, implementation="xla", **counted)

    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    rng = np.random.RandomState(0)
    num_queries, num_keys = lengths
    query = jnp.asarray(rng.randn(3, num_queries, 2, 4), jnp.float32)
    key, value = (jnp.asarray(rng.randn(3, num_keys, 2, 4), jnp.float32) for _ in range(2))
    output = attention._cudnn(query, key, value)
    np.testing.assert_allclose(output, attention.attention(query, key, value), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "length", "dim", "expected"),
    [
        (jnp.bfloat16, 196, 64, True),
        (jnp.float32, 196, 64, False),
        (jnp.bfloat16, 24, 64, False),
        (jnp.bfloat16, 196, 60, False),
        (jnp.bfloat16, 196, 192, False),
    ],
)
def test_cudnn_is_asked_for_what_it_can_do(dtype, length, dim, expected, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    query = jax.ShapeDtypeStruct((2, length, 4, dim), dtype)
    assert attention._cudnn_applies(query, query) is expected
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not attention._cudnn_applies(query, query)  # there is no plugin for CUDA
