"""ViT: sizes, outputs, position interpolation, and the registry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtag import models
from jaxtag.models import ViT
from jaxtag.models.vit import ConvStem, interpolate_positions

TINY = {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "mlp_dim": 24, "image_size": 16}


def count(model, **fields) -> int:
    images = jnp.zeros((1, 224, 224, 3))
    shapes = jax.eval_shape(models.create_model(model, **fields).init, jax.random.key(0), images)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("vit_tiny_patch16", 5.717),
        ("vit_small_patch16", 22.051),
        ("vit_base_patch16", 86.568),
        ("vit_base_patch32", 88.224),
        ("vit_large_patch16", 304.327),
        pytest.param("vit_huge_patch14", 632.046, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_are_the_papers(name: str, millions: float) -> None:
    assert count(name, num_classes=1000) / 1e6 == pytest.approx(millions, abs=1e-3)
    assert count(name, num_classes=1000, scan=True) == count(name, num_classes=1000)


def test_backbone_alone() -> None:
    assert count("vit_base_patch16") == 85_798_656


def test_every_name_gives_the_named_outputs() -> None:
    names = [name for name in models.list_models() if name.startswith("vit_")]
    names = [name for name in names if not name.endswith(("dinov2", "clip", "quickgelu", "siglip"))]
    assert len(names) == 22
    for name in names:
        model = models.create_model(name, scan=True)
        images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
        outputs, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        side = 224 // model.patch_size
        assert outputs["pooled"].shape == (2, model.width), name
        assert outputs["features"].shape == (2, 1 + side * side, model.width), name
        assert outputs["grid"].shape == (2, side, side, model.width), name


def test_dinov2_has_the_parameters_of_its_paper() -> None:
    sizes = {"small": 22.06, "base": 86.58, "large": 304.37, "giant": 1136.48}
    for size, millions in sizes.items():
        got = count(f"vit_{size}_patch14_dinov2", scan=True) / 1e6
        assert got == pytest.approx(millions, abs=0.01), size


def test_tokens_before_the_patches() -> None:
    fields = {"distilled": True, "registers": 3, "num_classes": 5, "layer_scale": 0.1}
    images = jnp.zeros((2, 16, 24, 3))
    shapes = {}
    for pool in ("cls", "cls_gap"):
        model = ViT(**TINY, **fields, pool=pool)
        outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
        shapes[pool] = outputs["pooled"].shape
        assert outputs["features"].shape == (2, 1 + 1 + 3 + 6, 16)
        assert variables["params"]["pos_embed"].shape == (2 + 4, 16)
    assert shapes == {"cls": (2, 16), "cls_gap": (2, 32)}
    alone = ViT(**TINY, **fields, no_embed_class=True)
    variables = jax.eval_shape(alone.init, jax.random.key(0), images)
    assert variables["params"]["pos_embed"].shape == (4, 16)


def test_pooling() -> None:
    images = jax.random.normal(jax.random.key(1), (2, 19, 30, 3))
    model = ViT(**TINY, pool="gap", class_token=False, num_classes=5)
    outputs, _ = jax.jit(model.init_with_output)(jax.random.key(0), images)
    assert outputs["features"].shape == (2, 6, 16)
    np.testing.assert_allclose(outputs["pooled"], outputs["grid"].mean((1, 2)), atol=1e-6)
    assert outputs["logits"].shape == (2, 5)
    outputs, _ = jax.jit(ViT(**TINY).init_with_output)(jax.random.key(0), images)
    np.testing.assert_array_equal(outputs["pooled"], outputs["features"][:, 0])
    assert "logits" not in outputs


def test_interpolation_keeps_constants_and_its_own_size() -> None:
    grid = jax.random.normal(jax.random.key(0), (5, 4, 3))
    np.testing.assert_array_equal(interpolate_positions(grid, (5, 4)), grid)
    flat = interpolate_positions(jnp.ones((5, 4, 3)), (7, 11))
    np.testing.assert_allclose(flat, np.ones((7, 11, 3)), atol=1e-6)


def test_non_square_image_size() -> None:
    model = ViT(**{**TINY, "image_size": (16, 32)})
    images = jnp.zeros((1, 16, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert variables["params"]["pos_embed"].shape == (1 + 8, 16)


@pytest.mark.parametrize(
    ("fields", "shape", "complaint"),
    [
        ({}, (1, 7, 16, 3), "at least 8 pixels"),
        ({}, (16, 16, 3), r"must be \[B, H, W, C\]"),
        ({"heads": 3}, (1, 16, 16, 3), "multiple of heads"),
        ({"class_token": False}, (1, 16, 16, 3), "pool must be"),
        ({"class_token": False, "pool": "gap", "distilled": True}, (1, 16, 16, 3), "distilled"),
        ({"activation": "relu"}, (1, 16, 16, 3), "activation must be"),
        ({"remat": "some"}, (1, 16, 16, 3), "remat must be one of none, dots, full"),
    ],
)
def test_wrong_use(fields: dict, shape: tuple, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ViT(**{**TINY, **fields}).init(jax.random.key(0), jnp.zeros(shape))


def test_registry_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean vit_tiny_patch16"):
        models.create_model("vit_tiny_patch17")
    with pytest.raises(TypeError, match=r"no field 'drop_paht' \(did you mean drop_path"):
        models.create_model("vit_tiny_patch16", drop_paht=0.1)


def test_conv_stem_is_the_convolution_it_names() -> None:
    """On CPU it gathers neighborhoods: the same numbers as XLA's convolution, gradients too."""
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    stem = ConvStem(patch_size=8, width=32, dtype=jnp.float32)
    params = jax.jit(stem.init)(jax.random.key(1), images)

    def reference(params: dict, images: jax.Array) -> jax.Array:
        p, x = params["params"], images
        for stage in range(3):
            x = jax.lax.conv_general_dilated(
                x,
                p[f"conv_{stage}"]["kernel"],
                window_strides=(2, 2),
                padding=((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            norm = p[f"norm_{stage}"]
            x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = jax.nn.relu(x * norm["scale"] + norm["bias"])
        x = x.reshape(2, 6, 32)
        return x @ p["project"]["kernel"] + p["project"]["bias"]

    def outputs_and_gradients(apply):
        loss = lambda p, i: (jnp.sin(y := apply(p, i)).sum(), y)  # noqa: E731
        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (_, outputs), gradients = run(params, images)
        return outputs, gradients

    results = [outputs_and_gradients(apply) for apply in (stem.apply, reference)]
    (outputs, expected), gradients = zip(*results, strict=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4), *gradients)


def test_conv_stem_wants_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="14"):
        models.create_model("vit_tiny_patch14", stem="conv").init(
            jax.random.key(0), jnp.zeros((1, 28, 28, 3))
        )
    with pytest.raises(ValueError, match="stem must be one of"):
        ViT(**TINY, stem="none").init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_positions_start_as_distinct_sines() -> None:
    images = jnp.zeros((1, 16, 24, 3))
    model = ViT(**{**TINY, "image_size": (16, 24)})
    table = model.init(jax.random.key(0), images)["params"]["pos_embed"]
    assert table.shape == (1 + 6, 16)
    np.testing.assert_array_equal(table[0], 0)
    # Row 1, column 2 of the grid: sin and cos of the row, then of the column.
    frequencies = 10000.0 ** -(np.arange(4) / 3)
    expected = [f(index * frequencies) for index in (1, 2) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(table[1 + 5], np.concatenate(expected), atol=1e-6)
    distances = np.linalg.norm(table[1:, None] - table[None, 1:], axis=-1)
    assert distances[~np.eye(6, dtype=bool)].min() > 0.5
