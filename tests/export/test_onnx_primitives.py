"""Forms of operations that models of others may have: each by ONNX Runtime and by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from jaxtag.errors import UserError  # noqa: E402
from jaxtag.export.onnx_convert import to_onnx  # noqa: E402

TABLE = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32)
ROWS = np.arange(72, dtype=np.float32).reshape(3, 1, 4, 6)
KERNEL, PADS = TABLE[:6].reshape(3, 2, 1, 5), ((1, 0), (0, 2))
NHWC = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
WINDOW = ((1, 2, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (0, 1), (0, 0)))

# Functions of x float32 [batch, 4, 6] and n int32 [].
FUNCTIONS = {
    "tall": lambda x, n: jnp.concatenate([x, 2 * x[:, 1:]], 1),
    "turned": lambda x, n: x[:, ::-1],
    "every other": lambda x, n: lax.slice(x, (0, 1, 0), x.shape, (1, 1, 2)),
    "cut": lambda x, n: lax.pad(x, 0.5, ((0, 0, 0), (-1, 2, 0), (1, -1, 0))),
    "first": lambda x, n: x[:, 0] - x[:, -1],
    "split": lambda x, n: jnp.split(x, 3, -1)[1],
    "stacked": lambda x, n: jnp.stack([x, -x], 1),
    "column of a batch": lambda x, n: jnp.broadcast_to(x.mean(0, keepdims=True), x.shape) + x,
    "constant beside": lambda x, n: jnp.zeros_like(x) + jnp.arange(6.0) - x.max(-1, keepdims=True),
    "sums": lambda x, n: jnp.stack([x.sum(-1), x.max(-1), x.min(-1), x.prod(-1)]),
    "largest": lambda x, n: jnp.asarray(TABLE)[x.argmax(-1)] + x[..., :5],
    "one hot": lambda x, n: jax.nn.one_hot(x.argmax(-1), 6) * x,
    "rows": lambda x, n: jnp.asarray(TABLE)[jnp.minimum(n, 6)] + x[..., :5],
    "read": lambda x, n: lax.dynamic_slice_in_dim(x, n, 2, 1),
    "written": lambda x, n: lax.dynamic_update_slice_in_dim(x, 9 * x[:, :1], n, 1),
    "masked": lambda x, n: jnp.where((jnp.arange(6) <= n) & (x > 0), x, -1.0),
    "numbers": lambda x, n: (n // 2 + n % 2).astype(jnp.float32) * x**2 - jnp.clip(x, 0, 0.5),
    "matrices": lambda x, n: jnp.einsum("bij,bkj->bik", x, x),
    "parts": lambda x, n: jnp.tensordot(x, TABLE[:6, None, :], 1),
    "vector": lambda x, n: x @ TABLE[:6, 0],
    "transposed product": lambda x, n: jnp.einsum("bij,jd->dbi", x, TABLE[:6]),
    "both sides": lambda x, n: jnp.einsum("bij,bij->b", x, x),
    "steps": lambda x, n: lax.map(lambda row: row * 2, jnp.stack([x, -x])),
    "steps back": lambda x, n: lax.scan(lambda c, row: (c + row, c), x, ROWS, reverse=True)[1],
    "any and all": lambda x, n: ((x > 0).any(1) & ~(x > 1).all(1)).argmax(-1),
    "of each its own": lambda x, n: jnp.take_along_axis(x, x.argmax(1)[:, :1, None], 1),
    "of each element": lambda x, n: jnp.take_along_axis(x, x.argmax(1, keepdims=True), 1),
    "cumulative": lambda x, n: jnp.cumsum(x, -1),
    "functions": lambda x, n: jax.nn.gelu(x) + jax.nn.silu(x) + lax.rsqrt(1 + x * x) + jnp.exp(-x),
    "image": lambda x, n: lax.conv_general_dilated(x[..., None], KERNEL, (2, 1), PADS, **NHWC),
    "pooled": lambda x, n: lax.reduce_window(x[..., None], -jnp.inf, lax.max, *WINDOW),
    "sizes of the batch": lambda x, n: jnp.ones(
        (-(-x.shape[0] // 2), x.shape[0] % 2 + x.shape[0] ** 2)
    ),
    "the batch itself": lambda x, n: x.reshape(-1, 6)[None] + jnp.zeros((1, 1, 6)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name: str) -> None:
    function = FUNCTIONS[name]
    x = np.random.default_rng(5).normal(size=(3, 4, 6)).astype(np.float32)
    n = np.array(2, np.int32)
    (batch,) = jax.export.symbolic_shape("batch")
    inputs = {
        "x": jax.ShapeDtypeStruct((batch, 4, 6), jnp.float32),
        "n": jax.ShapeDtypeStruct((), jnp.int32),
    }
    model = to_onnx(lambda x, n: {"y": function(x, n)}, inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    computed = session.run(["y"], {"x": x, "n": n})[0]
    expected = np.asarray(function(jnp.asarray(x), jnp.asarray(n)))
    assert computed.shape == expected.shape and computed.dtype == expected.dtype
    np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-5)


def test_an_operation_without_a_form_is_named() -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    spec = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
    with pytest.raises(UserError, match="cannot leave as ONNX: while has no form there"):
        to_onnx(
            lambda x: {"y": lax.while_loop(lambda c: c.sum() > 0, lambda c: c - 1, x)}, {"x": spec}
        )
