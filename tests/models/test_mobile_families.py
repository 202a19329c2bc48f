"""MobileNet and EfficientNet against torchvision, timm and transformers, with the same weights.

The reference files and `mobile_names.json` are of benchmarks/make_mobile_references.py.
"""

import json

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file
from source_tensors import source_shapes
from stored import REFERENCES

from jaxtag import models
from jaxtag.models import efficientnet, mobile_blocks
from jaxtag.models.efficientnet import EfficientNet
from jaxtag.models.mobilenet import MobileNetV1, MobileNetV2
from jaxtag.models.mobilenet_v3 import LARGE, SMALL, MobileNetV3
from jaxtag.weights import mappings, param_mapping

NAMES = json.loads((REFERENCES / "mobile_names.json").read_text())

# Small networks where the library lets one choose, else the whole depth at a small width.
TENSORFLOW = {"padding": "same", "norm_eps": 1e-3}
TIMM_V3 = (
    (3, 16, 8, True, "relu", 2),
    (5, 32, 16, True, "hard_swish", 2),
    (3, 32, 16, False, "hard_swish", 1),
)
TRANSFORMERS_STAGES = tuple(
    (*stage[:3], channels, stage[4])
    for stage, channels in zip(
        efficientnet.STAGES, (64, 24, 40, 40, 96, 96, 128), strict=True
    )
)  # fmt: skip
LITE_STAGES = ((1, 3, 2, 16, 1), (2, 5, 2, 24, 2), (2, 3, 2, 32, 1))
CASES = {
    "mobilenet_v1_timm": (
        MobileNetV1,
        {"stages": ((16, 1, 1), (24, 2, 2)), "padding": None, "norm_eps": 1e-5},
    ),
    "mobilenet_v1_transformers": (MobileNetV1, {"width": 0.1}),
    "mobilenet_v2_torchvision": (MobileNetV2, {"width": 0.1}),
    "mobilenet_v2_timm": (MobileNetV2, {"width": 0.25, "stages": ((1, 64, 1, 2), (6, 96, 2, 2))}),
    "mobilenet_v2_transformers": (MobileNetV2, {"width": 0.28, **TENSORFLOW}),
    "mobilenet_v3_large_torchvision": (MobileNetV3, {"width": 0.125}),
    "mobilenet_v3_small_torchvision": (
        MobileNetV3,
        {"width": 0.125, "blocks": SMALL, "hidden": 1024},
    ),
    "mobilenet_v3_timm": (MobileNetV3, {"blocks": TIMM_V3, "hidden": 64, **TENSORFLOW}),
    "efficientnet_torchvision": (EfficientNet, {"width": 0.125}),
    "efficientnet_timm": (
        EfficientNet,
        {"width": 0.25, "stages": ((1, 3, 1, 64, 1), (6, 5, 2, 96, 2)), **TENSORFLOW},
    ),
    "efficientnet_lite_timm": (
        EfficientNet,
        {"lite": True, "stages": LITE_STAGES, **TENSORFLOW},
    ),
    "efficientnet_transformers": (
        EfficientNet,
        {"width": 0.25, "depth": 0.4, "stages": TRANSFORMERS_STAGES, **TENSORFLOW},
    ),
}


def build(case: str):
    """The model of a reference, without dropout."""
    module, fields = CASES[case]
    rates = {"dropout": 0.0} | ({"drop_path": 0.0} if module is EfficientNet else {})
    return module(**fields, **rates, num_classes=5, norm_momentum=0.9)


# Whole depths that take XLA long; the others have the same blocks and paddings.
DEAR = {
    "efficientnet_torchvision",
    "efficientnet_transformers",
    "mobilenet_v1_transformers",
    "mobilenet_v2_torchvision",
    "mobilenet_v2_transformers",
    "mobilenet_v3_large_torchvision",
    "mobilenet_v3_small_torchvision",
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in DEAR else ()) for c in CASES]
)
def test_equals_other_libraries(case: str) -> None:
    """Inference at each size; in training logits, all gradients and the running moments."""
    stored = load_file(REFERENCES / f"{case}.safetensors")
    after = {k.removeprefix("after/"): v for k, v in stored.items() if k.startswith("after/")}
    model = build(case)
    names = mappings.tables(model)[case.rpartition("_")[2]](model)
    variables = param_mapping.to_variables(drawn.weights(source_shapes(model, names)), names)

    sizes = [k.removeprefix("images/") for k in stored if k.startswith("images/")]
    for size in sizes:
        logits = jax.jit(model.apply)(variables, stored[f"images/{size}"])["logits"]
        np.testing.assert_allclose(logits, stored[f"logits/{size}"], atol=1e-4)

    def loss(params):
        trained = {"params": params, "batch_stats": variables["batch_stats"]}
        images = stored[f"images/{max(sizes)}"]  # the odd one
        outputs, changed = model.apply(trained, images, train=True, mutable=["batch_stats"])
        return (outputs["logits"] * stored["factors"]).mean(), (outputs["logits"], changed)

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradients, (logits, moments) = step(variables["params"])
    np.testing.assert_allclose(logits, stored["trained_logits"], atol=1e-4)
    tensors = param_mapping.to_tensors({"params": gradients, **moments}, names)
    assert tensors.keys() == after.keys()
    for name, expected in after.items():
        # Of the tensor's largest element; a shift that the next norm takes away has gradient 0.
        scale = max(0.01, float(np.abs(expected).max()))
        values = drawn.sampled(tensors[name])
        np.testing.assert_allclose(values, expected, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize(
    "case",
    [
        # Another member of the family with the same library's names is a default test.
        pytest.param(
            c,
            marks=pytest.mark.slow
            if c in ("timm/efficientnet_b7", "torchvision/efficientnet_b7")
            else (),
        )
        for c in NAMES
    ],
)
def test_tables_cover_every_tensor(case: str) -> None:
    """All tensors of a file and all variables, with the right shapes, of registered models."""
    library, name = case.split("/")
    model = models.create_model(name, num_classes=1000)
    shapes = source_shapes(model, mappings.tables(model)[library](model))
    assert shapes == {name: tuple(shape) for name, shape in NAMES[case].items()}


def test_torchvision_has_no_v1() -> None:
    with pytest.raises(ValueError, match='"timm" or "transformers"'):
        mappings.tables(MobileNetV1())["torchvision"](MobileNetV1())


def test_tables_cover_the_installed_packages_names() -> None:
    """Of efficientnet_pytorch: the same tensors as timm's under other names, in another order."""
    for name in ("efficientnet_lite0", "efficientnet_b0"):
        model = models.create_model(name, num_classes=1000)
        table = mappings.tables(model)["efficientnet_pytorch"](model)
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        assert set(table) == set(flatten_dict(variables, sep="/"))
        names = param_mapping.source_names(table)
        assert len(set(names)) == len(names) and "_blocks.1._expand_conv.weight" in names


def test_a_lite_is_in_timm_alone() -> None:
    model = models.create_model("efficientnet_lite0", num_classes=3)
    for library in ("torchvision", "transformers"):
        with pytest.raises(ValueError, match="no EfficientNet-Lite"):
            mappings.tables(model)[library](model)


@pytest.mark.parametrize("module", [MobileNetV2, EfficientNet])
def test_transformers_is_another_function_where_it_adds_no_input(module) -> None:
    model = module(width=0.125, **TENSORFLOW)
    with pytest.raises(ValueError, match=r"transformers has no residual in .*width=0\.125"):
        mappings.tables(model)["transformers"](model)


def test_widths_are_rounded_as_in_the_papers_code() -> None:
    """`make_divisible`: 20 is nearer to 24 when ties go up, and 10 may not become 8."""
    rounded = {3: 8, 10: 16, 11.2: 16, 20: 24, 35.2: 32, 179.2: 176, 352: 352}
    assert {width: mobile_blocks.make_divisible(width) for width in rounded} == rounded


def test_dropout_is_the_classifiers_alone() -> None:
    model = MobileNetV3(num_classes=3, width=0.125, blocks=LARGE[:2], dropout=0.5)
    images = jnp.ones((4, 16, 16, 3)) * jnp.arange(4.0)[:, None, None, None]
    variables = jax.jit(model.init)(jax.random.key(0), images)
    variables["params"]["head"]["kernel"] = jnp.ones((160, 3))

    @jax.jit
    def outputs(seed: int):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    first, second = outputs(1), outputs(2)
    np.testing.assert_array_equal(first["pooled"], second["pooled"])
    assert not np.allclose(first["logits"], second["logits"])


def test_drop_path_drops_whole_branches_of_the_block() -> None:
    """With the branch dropped an example stays as it was; else it is scaled by 1 / keep."""
    block = mobile_blocks.InvertedResidual(8, 16, 3, 1, jax.nn.silu, {}, drop_path=0.5)
    x = jax.random.normal(jax.random.key(0), (64, 4, 4, 8))
    variables = block.init(jax.random.key(1), x, False)
    undropped, _ = block.clone(drop_path=0.0).apply(variables, x, True, mutable=["batch_stats"])
    rngs = {"dropout": jax.random.key(2)}
    dropped, _ = block.apply(variables, x, True, rngs=rngs, mutable=["batch_stats"])
    share = np.asarray(((dropped - x) / (undropped - x)).mean((1, 2, 3)))
    survivors = share > 1
    np.testing.assert_allclose(share, np.where(survivors, 2.0, 0.0), atol=1e-3)
    assert 16 < survivors.sum() < 48
