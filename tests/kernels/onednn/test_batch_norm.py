"""oneDNN's gradients of batch norm: equal to the definition's, and where a program has them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag.distributed.mesh import batch_sharding, make_mesh, with_mesh
from jaxtag.kernels.batch_norm import BatchNorm
from jaxtag.kernels.onednn import batch_norm, library
from jaxtag.kernels.onednn.batch_norm import Spec

pytestmark = pytest.mark.skipif(
    library.load() is None, reason="oneDNN's package is for Linux on x86-64"
)

EPSILON = 1e-3
LARGE = (4, 64, 64, 16)  # from so many values on, a layer takes it
SHAPES = [LARGE, (4, 9, 7, 16), (2, 3, 4, 64), (1, 8, 8, 48), (3, 1, 1, 16), (2, 12, 10, 144)]


def drawn(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What the gradients are computed from, in float64."""
    rng = np.random.RandomState(0)
    x = rng.randn(*shape) * 3 + 1
    axes = tuple(range(len(shape) - 1))
    moments = {"mean": x.mean(axes), "variance": x.var(axes)}
    return {"x": x, "gradient": rng.randn(*shape), **moments, "scale": rng.randn(shape[-1])}


def by_definition(x, gradient, mean, variance, scale):
    """Ioffe and Szegedy 2015, section 3, in float64."""
    axes = tuple(range(x.ndim - 1))
    inverse = 1 / np.sqrt(variance + EPSILON)
    around = (x - mean) * inverse
    to_scale, to_shift = (gradient * around).sum(axes), gradient.sum(axes)
    count = x.size // x.shape[-1]
    to_x = scale * inverse * (gradient - to_shift / count - around * to_scale / count)
    return to_x, to_scale, to_shift


def operands(shape: tuple[int, ...], dtype: str) -> list[jax.Array]:
    values = drawn(shape)
    dtypes = [dtype, dtype, *["float32"] * 3]
    return [jnp.asarray(one, dtype) for one, dtype in zip(values.values(), dtypes, strict=True)]


def gradients(model: BatchNorm, x: jax.Array):
    """A function of the parameters and x that gives both gradients of a loss, and those two."""
    variables = model.init(jax.random.key(0), x, True)
    params = jax.tree.map(lambda one: one + 0.5, variables.pop("params"))
    factors = np.random.RandomState(1).randn(*x.shape) / np.sqrt(x.size / x.shape[-1])
    factors = jnp.asarray(factors, jnp.float32)  # sums over a channel are of the size of 1

    def loss(params, x):
        y, changed = model.apply({"params": params, **variables}, x, True, mutable=["batch_stats"])
        return (jax.nn.relu(y) * factors).sum(), changed

    return jax.grad(loss, (0, 1), has_aux=True), params, x


def is_used(program: str) -> bool:
    return batch_norm.TARGET in program


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition_in_float32(shape: tuple[int, ...]) -> None:
    spec = Spec("float32", shape, EPSILON)
    assert batch_norm.supports(spec)
    results = jax.jit(partial(batch_norm.gradients, spec))(*operands(shape, "float32"))
    for one, right in zip(results, by_definition(**drawn(shape)), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, right, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_summed_in_float32(shape: tuple[int, ...]) -> None:
    spec = Spec("bfloat16", shape, EPSILON)
    if not batch_norm.supports(spec):
        pytest.skip("this CPU has no instructions for it")
    arguments = operands(shape, "bfloat16")
    results = jax.jit(partial(batch_norm.gradients, spec))(*arguments)
    rounded = [np.asarray(one.astype(jnp.float32), np.float64) for one in arguments]
    expected = by_definition(*rounded)
    assert [one.dtype for one in results] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(results[0].astype(jnp.float32), expected[0], rtol=2**-8, atol=1e-3)
    for one, right in zip(results[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, right, atol=1e-4 * np.abs(right).max())


@pytest.mark.parametrize("model", [BatchNorm(), BatchNorm(use_scale=False, momentum=0.4)])
def test_a_layer_has_the_gradients_and_moments_of_xla(model: BatchNorm, monkeypatch) -> None:
    function, *arguments = gradients(model, jnp.asarray(drawn(LARGE)["x"], jnp.float32))
    assert is_used(jax.jit(function).lower(*arguments).as_text())
    results = jax.jit(function)(*arguments)
    monkeypatch.setattr(batch_norm, "supports", lambda spec: False)
    function, *arguments = gradients(model, arguments[-1])
    assert not is_used(jax.jit(function).lower(*arguments).as_text())
    expected = jax.jit(function)(*arguments)
    assert jax.tree.structure(results) == jax.tree.structure(expected)
    for one, right in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, right, atol=1e-4)


def test_channels_that_fill_no_vectors_are_left_to_xla() -> None:
    assert not batch_norm.supports(Spec("float32", (4, 9, 7, 5), EPSILON))
    assert not batch_norm.supports(Spec("float16", SHAPES[0], EPSILON))


def test_groups_vectors_few_values_and_several_devices_do_without() -> None:
    x = jnp.asarray(drawn(LARGE)["x"], jnp.float32)
    for model, images in (
        (BatchNorm(groups=2), x),
        (BatchNorm(), x.reshape(-1, 16)),
        (BatchNorm(), x[1:]),
    ):
        function, *arguments = gradients(model, images)
        assert not is_used(jax.jit(function).lower(*arguments).as_text())
    mesh = make_mesh(data=2, devices=jax.devices()[:2])
    function, *arguments = gradients(BatchNorm(), x)
    expected, _ = jax.jit(function)(*arguments)
    program = jax.jit(with_mesh(mesh, function))
    arguments[-1] = jax.device_put(x, batch_sharding(mesh))
    assert not is_used(program.lower(*arguments).as_text())
    for one, right in zip(*map(jax.tree.leaves, (program(*arguments)[0], expected)), strict=True):
        np.testing.assert_allclose(one, right, atol=1e-4)


def test_other_platforms_get_xlas() -> None:
    function, *arguments = gradients(BatchNorm(), jnp.ones(LARGE))
    traced = jax.jit(function).trace(*arguments)
    for platform in ("tpu", "cuda"):
        assert not is_used(traced.lower(lowering_platforms=(platform,)).as_text())


def test_vmap_calls_it() -> None:
    form = partial(batch_norm.gradients, Spec("float32", SHAPES[0], EPSILON))
    arguments = operands(SHAPES[0], "float32")
    many = [jnp.stack([one, 2 * one]) for one in arguments[:2]]
    results = jax.jit(jax.vmap(form, (0, 0, None, None, None)))(*many, *arguments[2:])
    for number, factor in enumerate((1, 2)):
        expected = form(*(factor * one for one in arguments[:2]), *arguments[2:])
        for one, right in zip(results, expected, strict=True):
            np.testing.assert_array_equal(one[number], right)


def test_the_text_says_all_of_it() -> None:
    spec = Spec("bfloat16", (8, 7, 9, 4), 1e-5)
    assert Spec.parse(str(spec)) == spec
    assert str(spec) == "bfloat16 8x7x9x4 1e-05"
