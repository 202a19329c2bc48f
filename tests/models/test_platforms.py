"""What is written another way for CPU stays native on accelerators: seen in the lowered program."""

import jax
import jax.numpy as jnp
import pytest

from jaxtag.models import ViT


@pytest.mark.parametrize(("platform", "here"), [("cpu", True), ("tpu", False), ("cuda", False)])
def test_forms_by_platform(platform: str, here: bool) -> None:
    model = ViT(
        patch_size=8, width=32, depth=2, heads=2, mlp_dim=64, image_size=16, stem="conv", scan=True
    )
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)

    def gradient(params, images):
        return jax.grad(lambda p: model.apply(p, images)["pooled"].sum())(params)

    traced = jax.jit(gradient).trace(params, images)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("optimization_barrier" in text) is here
    assert ("stablehlo.convolution" in text) is not here
