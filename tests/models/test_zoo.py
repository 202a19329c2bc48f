"""Every registered model: outputs, precision, gradients, cost, from its traced program alone; of
each family a small form is run too."""

from collections.abc import Iterable
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict

from jaxtag import models
from jaxtag.perf import flops

CLASSES = 5

# Parameters with 1000 classes, and 1e9 multiply-adds at the model's image size: torchvision's
# (`weights.meta`), but for MobileNet V1 (table 8 of its paper, Keras), EfficientNet-Lite (timm,
# counted by PyTorch's FlopCounterMode), AlexNet of two towers (Sze et al. 2017, arXiv:1703.09039,
# table II), the small ViTs (timm; Touvron et al. 2021, arXiv:2012.12877), DeiT and ConvNeXt V2
# (timm).
PUBLISHED = {
    "alexnet": (61_100_840, 0.714),
    "alexnet_two_tower": (60_965_224, 0.724),
    "convnext_tiny": (28_589_128, 4.456),
    "convnext_small": (50_223_688, 8.684),
    "convnext_base": (88_591_464, 15.355),
    "convnextv2_nano": (15_623_800, 2.46),
    "convnextv2_tiny": (28_635_496, 4.47),
    "convnextv2_base": (88_717_800, 15.38),
    "deit_tiny_distilled_patch16": (5_910_800, 1.27),
    "deit_small_distilled_patch16": (22_436_432, 4.63),
    "deit_base_distilled_patch16": (87_338_192, 17.68),
    "efficientnet_b0": (5_288_548, 0.386),
    "efficientnet_b1": (7_794_184, 0.687),
    "efficientnet_b2": (9_109_994, 1.088),
    "efficientnet_b3": (12_233_232, 1.827),
    "efficientnet_b4": (19_341_616, 4.394),
    "efficientnet_b5": (30_389_784, 10.266),
    "efficientnet_b6": (43_040_704, 19.068),
    "efficientnet_b7": (66_347_960, 37.746),
    "efficientnet_lite0": (4_652_008, 0.385),
    "efficientnet_lite1": (5_416_680, 0.600),
    "efficientnet_lite2": (6_092_072, 0.860),
    "efficientnet_lite3": (8_197_096, 1.383),
    "efficientnet_lite4": (13_006_568, 2.553),
    "mobilenet_v1": (4_231_976, 0.569),
    "mobilenet_v2": (3_504_872, 0.301),
    "mobilenet_v3_large": (5_483_032, 0.217),
    "mobilenet_v3_small": (2_542_856, 0.057),
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "squeezenet1_0": (1_248_424, 0.819),
    "squeezenet1_1": (1_235_496, 0.349),
    "vit_tiny_patch16": (5_717_416, 1.26),
    "vit_small_patch16": (22_050_664, 4.61),
    "vit_base_patch16": (86_567_656, 17.564),
    "vit_base_patch32": (88_224_232, 4.409),
    "vit_large_patch16": (304_326_632, 61.555),
    "vit_large_patch32": (306_535_400, 15.378),
}
UNPUBLISHED = {"airbench94", "capsnet"}  # for other images and classes than ImageNet's

# One model of each family -> fields that make it small, image size.
SMALL = {
    "airbench94": ({"widths": (8, 12, 12)}, 16),
    "alexnet": ({"channels": (8, 12, 12, 8, 8), "hidden": 16}, 67),
    "capsnet": ({"channels": 8, "types": 2}, 20),
    "convnextv2_tiny": (
        {"depths": (1, 1, 0, 0), "widths": (8, 8, 12, 16), "layer_scale": 0.5, "drop_path": 0.5},
        32,
    ),
    "efficientnet_b0": ({"stages": ((1, 3, 1, 16, 1), (6, 5, 2, 24, 2))}, 32),
    "mobilenet_v1": ({"stages": ((16, 1, 1), (24, 2, 2))}, 32),
    "mobilenet_v2": ({"stages": ((1, 16, 1, 1), (6, 24, 2, 2))}, 32),
    "mobilenet_v3_small": (
        {
            "blocks": ((3, 16, 16, True, "relu", 2), (5, 48, 16, True, "hard_swish", 1)),
            "hidden": 32,
        },
        32,
    ),
    "resnet18": ({"depths": (1, 1, 0, 0)}, 32),
    "squeezenet1_1": ({"stages": (((4, 8), (4, 8)), ((8, 12),), ((8, 16),))}, 33),
    "vit_tiny_patch16": (
        {"width": 24, "depth": 2, "heads": 2, "mlp_dim": 40, "image_size": 32},
        32,
    ),
}
SMALL = {name: small for name, small in SMALL.items() if name in models.list_models()}


def create(name: str, **fields) -> nn.Module:
    """Large ones as one scan over layers, where they can: that is traced sooner."""
    scan = {"scan": True} if "scan" in models.field_names(name) else {}
    return models.create_model(name, **scan, **fields)


def image_shape(name: str) -> tuple[int, int, int]:
    preprocessing = models.get_preprocessing(name)
    return (preprocessing.image_size, preprocessing.image_size, len(preprocessing.mean))


def factors(batch: int) -> np.ndarray:
    return np.random.RandomState(0).standard_normal((batch, CLASSES)).astype(np.float32)


def step(model: nn.Module, variables, images):
    """(outputs, gradients, the changed variables) of a step in training."""
    others = {name: value for name, value in variables.items() if name != "params"}

    def loss(params):
        outputs, changed = model.apply(
            {"params": params, **others}, images, train=True,
            rngs={"dropout": jax.random.key(1)}, mutable=list(others),
        )  # fmt: skip
        return (outputs["logits"] * factors(len(images))).mean(), (outputs, changed)

    (_, (outputs, changed)), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradients)
    return outputs, gradients, {"params": params, **changed}


@cache
def small(name: str):
    """(the model, its variables, none of the parameters as initialized, images)."""
    fields, size = SMALL[name]
    model = models.create_model(name, num_classes=CLASSES, **fields)
    random = np.random.RandomState(1)
    shape = (4, size, size, image_shape(name)[2])
    images = random.standard_normal(shape).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def drawn(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = random.standard_normal(leaf.shape).astype(np.float32)
        if leaf.ndim > 1:
            return noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return 0.1 * noise + (path[-1].key in ("scale", "var"))

    variables = jax.device_put(jax.tree_util.tree_map_with_path(drawn, shapes))
    return model, variables, jax.device_put(images)


@cache
def trained(name: str):
    """The outputs and gradients of the small form's step; it is run twice, and compiled once."""
    model, variables, images = small(name)
    run = jax.jit(lambda variables, images: step(model, variables, images))
    outputs, gradients, changed = run(variables, images)
    run(changed, images[::-1])
    assert run._cache_size() == 1, "the second batch was compiled anew"
    return outputs, gradients


def sizes(names: Iterable[str]) -> list:
    """Cases that trace a model: of those that differ in size alone, the smallest one by default."""
    names, large = list(names), ("_base", "_small", "_large", "_giant", "_nano")
    others = [n for n in names if n.startswith(("convnext", "deit")) or "dinov2" in n]
    slow = [n for n in others if any(size in n for size in large) and "small_patch14_reg" not in n]
    slow += [*(f"efficientnet_b{size}" for size in range(2, 8)), "resnet101", "resnet152"]
    return [pytest.param(n, marks=pytest.mark.slow if n in slow else ()) for n in names]


@cache
def traced(name: str, num_classes: int = 1000):
    """(outputs, variables, multiply-adds) of one image at full size, in bfloat16, by shape."""
    model = create(name, num_classes=num_classes, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, *image_shape(name)), jnp.float32)
    trace = jax.make_jaxpr(model.init_with_output, return_shape=True)
    program, (outputs, variables) = trace(jax.random.key(0), images)
    return outputs, variables, flops.jaxpr_macs(program)


@pytest.mark.parametrize("name", sizes(models.list_models()))
def test_outputs_by_shape(name: str) -> None:
    """In bfloat16: parameters and logits are float32 all the same."""
    outputs, variables, _ = traced(name)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert outputs["pooled"].ndim == 2 and outputs["features"].ndim in (3, 4)
    for output in (outputs["pooled"], outputs["features"]):
        assert (output.shape[0], output.dtype) == (1, jnp.bfloat16)
        assert 0 not in output.shape
    assert (outputs["logits"].shape, outputs["logits"].dtype) == ((1, 1000), jnp.float32)


@pytest.mark.parametrize("name", SMALL)
def test_without_classes_only_the_classifier_is_missing(name: str) -> None:
    (with_classes, variables, _), (alone, backbone, _) = traced(name), traced(name, 0)
    assert "logits" in with_classes and "logits" not in alone
    variables, backbone = flatten_dict(variables), flatten_dict(backbone)
    heads = {path[1] for path in variables.keys() - backbone.keys()} - {"head_dist"}
    assert len(heads) == 1  # the classifier
    assert backbone.items() <= variables.items()


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models())
def test_gradients_by_shape(name: str) -> None:
    """At full size, in bfloat16, everything computed again."""
    remat = {"remat": "full"} if "remat" in models.field_names(name) else {}
    model = create(name, num_classes=CLASSES, dtype=jnp.bfloat16, **remat)
    images = jax.ShapeDtypeStruct((2, *image_shape(name)), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, gradients, changed = jax.eval_shape(lambda v, x: step(model, v, x), variables, images)
    assert gradients == variables["params"]
    assert changed == variables


@pytest.mark.parametrize("name", sizes(n for n in PUBLISHED if n in models.list_models()))
def test_cost_equals_what_is_published(name: str) -> None:
    parameters, operations = PUBLISHED[name]
    _, variables, macs = traced(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert macs == pytest.approx(operations * 1e9, rel=0.01)


def test_counts_of_a_model_are_those_of_its_trace() -> None:
    model = create("resnet18", num_classes=1000)
    assert flops.param_count(model, 224) == PUBLISHED["resnet18"][0]
    assert flops.macs(model, 224) == traced("resnet18")[2]


def test_every_cnn_has_a_published_cost() -> None:
    """A new one belongs into PUBLISHED."""
    networks = {name for name in models.list_models() if not name.startswith("vit_")}
    assert networks - UNPUBLISHED <= PUBLISHED.keys()


def test_every_family_has_a_small_form() -> None:
    """A new one belongs into SMALL."""
    families = {type(models.create_model(name)).__name__ for name in models.list_models()}
    assert families == {type(models.create_model(name)).__name__ for name in SMALL}


def test_counting_sees_into_loops_branches_and_gradients() -> None:
    a, b = jnp.ones((3, 4)), jnp.ones((4, 4))  # a @ b: 48

    def looped(a, b):
        turn = jax.checkpoint(lambda a, _: (a @ b, None))
        a, _ = jax.lax.scan(turn, a, None, length=5)
        dear = lambda a: a @ b @ b  # noqa: E731
        a = jax.lax.cond(a.sum() > 0, dear, lambda a: a @ b, a)
        return jax.lax.platform_dependent(a, cpu=dear, default=jax.jit(lambda a: a @ b))

    assert flops.jaxpr_macs(jax.make_jaxpr(looped)(a, b)) == 48 * (5 + 2 + 1)
    endless = lambda a: jax.lax.while_loop(lambda a: a.sum() < 9, lambda a: a @ b, a)  # noqa: E731
    with pytest.raises(ValueError, match="while loop"):
        flops.jaxpr_macs(jax.make_jaxpr(endless)(a))


@pytest.mark.parametrize("scan, remat", [(True, "none"), (False, "full")])
def test_count_is_the_same_in_every_form(scan: bool, remat: str) -> None:
    """Attention has 2 N^2 D multiply-adds beside the projections' 12 N D^2, N and D being 5 and 24
    here."""
    fields = {"width": 24, "depth": 3, "heads": 2, "mlp_dim": 96, "image_size": 32}
    model = models.create_model("vit_tiny_patch16", **fields, scan=scan, remat=remat)
    layer = 2 * 5**2 * 24 + 12 * 5 * 24**2
    assert flops.macs(model, 32) == 3 * layer + 4 * 16 * 16 * 3 * 24


def compiled(names: Iterable[str]) -> list:
    """Cases that compile a training step; of the mobile families it takes XLA long."""
    slow = ("mobilenet", "efficientnet", "convnext", "squeezenet")
    return [pytest.param(n, marks=pytest.mark.slow if n.startswith(slow) else ()) for n in names]


@pytest.mark.parametrize("name", compiled(SMALL))
def test_every_parameter_has_a_finite_gradient(name: str) -> None:
    outputs, gradients = trained(name)
    assert all(np.isfinite(output).all() for output in outputs.values())
    for path, gradient in flatten_dict(gradients, sep="/").items():
        assert np.isfinite(gradient).all() and np.any(gradient), path


@pytest.mark.parametrize("name", compiled(n for n in SMALL if "remat" in models.field_names(n)))
def test_remat_computes_again_and_gives_the_same_gradients(name: str) -> None:
    model, variables, images = small(name)
    again = model.clone(remat="full")
    program = jax.make_jaxpr(again.apply)(variables, images)
    assert any("remat" in equation.primitive.name for equation in program.eqns)
    _, updated, _ = jax.jit(lambda v, x: step(again, v, x))(variables, images)
    for path, expected in flatten_dict(trained(name)[1], sep="/").items():
        tolerance = 1e-5 * np.abs(expected).max()
        value = flatten_dict(updated, sep="/")[path]
        np.testing.assert_allclose(value, expected, atol=tolerance, err_msg=path)
    with pytest.raises(ValueError, match="remat must be one of"):
        jax.eval_shape(model.clone(remat="some").apply, variables, images)


@pytest.mark.parametrize("name", compiled(SMALL))
def test_bfloat16_is_close_to_float32(name: str) -> None:
    model, variables, images = small(name)
    half = model.clone(dtype=jnp.bfloat16)
    outputs, gradients, _ = jax.jit(lambda v, x: step(half, v, x))(variables, images)
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.float32)}
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))
    expected = trained(name)[0]["logits"]
    difference = np.linalg.norm(outputs["logits"] - expected)
    assert difference < 0.05 * np.linalg.norm(expected)


def test_variables_survive_saving_and_restoring(tmp_path) -> None:
    model, variables, images = small("resnet18")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "variables", variables)
    with ocp.StandardCheckpointer() as checkpointer:
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        restored = checkpointer.restore(tmp_path / "variables", shapes)
    for saved, loaded in zip(*map(jax.tree.leaves, (variables, restored)), strict=True):
        np.testing.assert_array_equal(saved, loaded)


def test_counting_a_strided_convolution_s_gradient_leaves_out_the_holes() -> None:
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 2, 3, 5))  # 2 x 4 x 4 x 5 outputs, 12 taps

    def loss(x, kernel):
        form = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=form
        ).sum()

    forward = jax.make_jaxpr(loss)(x, kernel)
    assert flops.jaxpr_macs(forward) == 160 * 12
    gradient = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, kernel)
    assert flops.jaxpr_macs(gradient) == 2 * 160 * 12  # the sum itself is not needed


def test_counting_leaves_out_what_nothing_depends_on() -> None:
    a = jnp.ones((4, 4))
    idle = jax.make_jaxpr(lambda a: (a @ a, jax.vjp(lambda a: a @ a, a)[1](a))[1])(a)
    assert flops.jaxpr_macs(idle) == 2 * 64
