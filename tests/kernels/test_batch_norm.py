"""Batch normalization: against a plain reading, over global batches and over groups, sharded."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtag.kernels.batch_norm import BatchNorm, population

X = np.random.RandomState(0).randn(16, 3, 2, 5).astype(np.float32) * 3 + 1


def trained(model: BatchNorm, x: np.ndarray, steps: int = 1):
    variables = model.init(jax.random.key(0), x, True)
    for _ in range(steps):
        y, changed = model.apply(variables, x, True, mutable=["batch_stats"])
        variables = {**variables, **changed}
    return y, variables


def test_global_moments_and_their_running_means() -> None:
    y, variables = trained(BatchNorm(momentum=0.9), X, steps=2)
    mean, variance = X.mean((0, 1, 2)), X.var((0, 1, 2))
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    running = variables["batch_stats"]
    share = 1 - 0.9**2
    np.testing.assert_allclose(running["mean"], share * mean, atol=1e-5)
    unbiased = X.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(running["var"], 0.9**2 + share * unbiased, atol=1e-4)


def test_inference_uses_the_running_moments() -> None:
    _, variables = trained(BatchNorm(momentum=0.0), X)
    y = BatchNorm().apply(variables, X, False)
    expected = (X - X.mean((0, 1, 2))) / np.sqrt(X.var((0, 1, 2), ddof=1) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_gradient_is_right_numerically() -> None:
    model = BatchNorm()
    variables = model.init(jax.random.key(0), X, True)
    factors = np.random.RandomState(1).randn(*X.shape)

    def loss(x):
        y, _ = model.apply(variables, x, True, mutable=["batch_stats"])
        return (y * factors).sum()

    def exact(x):  # in float64
        y = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        return (y * factors).sum()

    direction = np.random.RandomState(2).randn(*X.shape)
    numeric = (exact(X + 1e-5 * direction) - exact(X - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose((jax.grad(loss)(X) * direction).sum(), numeric, rtol=1e-4)


def test_groups_have_moments_of_their_own() -> None:
    y, variables = trained(BatchNorm(momentum=0.0, groups=4), X)
    for group in range(4):
        part = X[4 * group : 4 * group + 4]
        expected = (part - part.mean((0, 1, 2))) / np.sqrt(part.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(y[4 * group : 4 * group + 4], expected, atol=1e-5)
    running = variables["batch_stats"]
    assert running["mean"].shape == (4, 5)
    mean, variance = population(running["mean"], running["var"])
    np.testing.assert_allclose(mean, X.mean((0, 1, 2)), atol=1e-5)
    parts = X.reshape(4, -1, 5)
    np.testing.assert_allclose(
        variance, parts.var(1, ddof=1).mean(0) + parts.mean(1).var(0), rtol=1e-5
    )


@pytest.mark.parametrize("groups", [1, 8, 2])
def test_eight_devices_equal_one(groups: int) -> None:
    model = BatchNorm(groups=groups)
    expected, variables = trained(model, X)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    step = jax.jit(lambda v, x: model.apply(v, x, True, mutable=["batch_stats"]))
    fresh = model.init(jax.random.key(0), X, True)
    y, changed = step(fresh, jax.device_put(X, sharding))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for name, value in changed["batch_stats"].items():
        np.testing.assert_allclose(value, variables["batch_stats"][name], atol=1e-5)


def test_a_group_for_each_device_needs_no_exchange() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    replicated = NamedSharding(mesh, PartitionSpec())

    def collectives(groups: int) -> set[str]:
        model = BatchNorm(groups=groups)
        fresh = model.init(jax.random.key(0), X, True)
        rows = sharding if groups > 1 else replicated
        stats = jax.tree.map(lambda _: rows, fresh["batch_stats"])
        shardings = {
            "params": jax.tree.map(lambda _: replicated, fresh["params"]),
            "batch_stats": stats,
        }
        step = jax.jit(
            lambda v, x: model.apply(v, x, True, mutable=["batch_stats"]),
            in_shardings=(shardings, sharding),
            out_shardings=(sharding, {"batch_stats": stats}),
        )
        text = step.lower(fresh, X).compile().as_text()
        return set(re.findall(r"(all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", text))

    assert "all-reduce" in collectives(1)
    assert collectives(8) == set()


def test_wrong_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a batch of 16 .* groups \(3\)"):
        trained(BatchNorm(groups=3), X)
    with pytest.raises(ValueError, match="more than one value a channel"):
        trained(BatchNorm(), X[:1, :1, :1])


def test_bfloat16_in_and_out_with_float32_moments() -> None:
    y, variables = trained(BatchNorm(dtype=jnp.bfloat16), X.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_remat_changes_the_moments_once() -> None:
    class Net(nn.Module):
        remat: bool

        @nn.compact
        def __call__(self, x, train):
            block = nn.remat(BatchNorm, static_argnums=(2,)) if self.remat else BatchNorm
            return block(momentum=0.5, name="norm")(x, train)

    gradients = []
    for remat in (False, True):
        model = Net(remat)
        variables = model.init(jax.random.key(0), X, True)

        def loss(params, model=model, variables=variables):
            full = {**variables, "params": params}
            y, changed = model.apply(full, X, True, mutable=["batch_stats"])
            return (y**3).sum(), changed

        gradients.append(jax.grad(loss, has_aux=True)(variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *gradients)
