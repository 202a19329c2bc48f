"""AlexNet, SqueezeNet and ResNet against other libraries, with the same weights: what they give in
inference, and after a step in training (stored, benchmarks/make_plain_references.py)."""

import json
from functools import partial

import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from source_tensors import source_shapes
from stored import REFERENCES

from jaxtag import models
from jaxtag.models.alexnet import AlexNet, local_response_norm
from jaxtag.models.resnet import ResNet
from jaxtag.models.squeezenet import SqueezeNet
from jaxtag.weights import mappings, param_mapping

CLASSES = 5


def fires(*stages: tuple[tuple[int, int], ...]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Stages with a quarter of the channels."""
    return tuple(tuple((s // 4, e // 4) for s, e in stage) for stage in stages)


V1_0 = fires(
    ((16, 64), (16, 64), (32, 128)), ((32, 128), (48, 192), (48, 192), (64, 256)), ((64, 256),)
)
V1_1 = fires(
    ((16, 64), (16, 64)), ((32, 128),) * 2, ((48, 192), (48, 192), (64, 256), (64, 256))
)  # fmt: skip
ALEXNET = AlexNet((16, 48, 96, 64, 64), hidden=32, num_classes=CLASSES, dropout=0.0)
TWO_TOWERS = ALEXNET.clone(channels=(12, 16, 20, 20, 16), two_towers=True)
BASIC = ResNet((1, 1, 2, 1), bottleneck=False, num_classes=CLASSES)
BOTTLENECK = ResNet((1, 1, 2, 1), num_classes=CLASSES)

# Stored file -> (library whose names it has, model, standard deviation of the pictures).
CASES = {
    "alexnet": ("torchvision", ALEXNET, 1.0),
    "alexnet_two_tower": ("torchvision", TWO_TOWERS, 80.0),
    "squeezenet1_0": ("torchvision", SqueezeNet((24, 7), V1_0, CLASSES, 0.0), 1.0),
    "squeezenet1_1": ("torchvision", SqueezeNet((16, 3), V1_1, CLASSES, 0.0), 1.0),
    "resnet_basic_torchvision": ("torchvision", BASIC, 1.0),
    "resnet_bottleneck_torchvision": ("torchvision", BOTTLENECK, 1.0),
    "resnet_basic_transformers": ("transformers", BASIC, 1.0),
    "resnet_bottleneck_transformers": ("transformers", BOTTLENECK, 1.0),
    "resnet_bottleneck_timm": ("torchvision", ResNet((1,) * 4, num_classes=CLASSES), 1.0),
}


def notes(case: str) -> dict[str, str]:
    """What the script wrote beside the tensors: the images' seed, the full-size models' names."""
    with safe_open(REFERENCES / f"{case}.safetensors", "np") as file:
        return file.metadata()


def names_of(library: str, model: nn.Module) -> param_mapping.Table:
    """Our reference of two towers has the names that torchvision gives one."""
    if isinstance(model, AlexNet):
        model = model.clone(two_towers=False)
    return mappings.tables(model)[library](model)


def assert_close(values: np.ndarray, expected: np.ndarray, name: str) -> None:
    """To 1e-4 of the largest element."""
    np.testing.assert_allclose(values, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)


# Of these another library's names or another size is a default test.
DEAR = {
    "squeezenet1_0",
    "resnet_basic_transformers",
    "resnet_basic_torchvision",
    "resnet_bottleneck_timm",
    "resnet_bottleneck_transformers",
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c in DEAR else ()) for c in CASES]
)
def test_equals_other_libraries(case: str) -> None:
    library, model, deviation = CASES[case]
    stored = load_file(REFERENCES / f"{case}.safetensors")
    seed = int(notes(case)["seed"])
    names = names_of(library, model)
    variables = param_mapping.to_variables(
        drawn.weights(source_shapes(model, names), spread_norms=True), names
    )
    sizes = [name.removeprefix("logits/") for name in stored if name.startswith("logits/")]

    def images_of(size: str) -> np.ndarray:
        height, width = map(int, size.split("x"))
        return drawn.images(seed, (height, width), deviation)

    apply = jax.jit(model.apply)
    for size in sizes:
        logits = apply(variables, images_of(size))["logits"]
        assert_close(logits, stored[f"logits/{size}"], size)

    @jax.jit
    def step(variables, images):
        others = {name: value for name, value in variables.items() if name != "params"}

        def loss(params):
            outputs, changed = model.apply(
                {"params": params, **others}, images, train=True, mutable=["batch_stats"]
            )
            return (outputs["logits"] * stored["factors"]).mean(), (outputs["logits"], changed)

        (_, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return gradients, *outputs

    trained_size = "131x99" if "131x99" in sizes else "33x39"
    gradients, logits, changed = step(variables, images_of(trained_size))
    assert_close(logits, stored["trained_logits"], "logits in training")
    after = param_mapping.to_tensors({"params": gradients, **changed}, names)
    assert {f"after/{name}" for name in after} == {n for n in stored if n.startswith("after/")}
    for name, tensor in after.items():
        assert_close(drawn.sampled(tensor), stored[f"after/{name}"], name)


@pytest.mark.parametrize("case", CASES)
def test_full_size_names_and_shapes_equal_other_libraries(case: str) -> None:
    for full, expected in json.loads(notes(case)["full_size"]).items():
        library, name = full.split("/")
        model = models.create_model(name, num_classes=1000)
        shapes = source_shapes(model, mappings.tables(model)[library](model))
        assert shapes == {name: tuple(shape) for name, shape in expected.items()}


def test_response_norm_equals_a_plain_reading() -> None:
    a = 100 * np.random.RandomState(0).standard_normal((2, 3, 7)).astype(np.float32)
    expected = np.zeros(a.shape)
    for i in range(7):
        near = a[..., max(0, i - 2) : i + 3].astype(np.float64)
        expected[..., i] = a[..., i] / (2 + 1e-4 * (near**2).sum(-1)) ** 0.75
    np.testing.assert_allclose(local_response_norm(jnp.asarray(a)), expected, rtol=1e-5)
    assert local_response_norm(jnp.asarray(a, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("model", [ALEXNET, TWO_TOWERS, CASES["squeezenet1_1"][1]])
def test_dropout_is_of_training_only(model: nn.Module) -> None:
    images = np.random.RandomState(0).standard_normal((2, 67, 67, 3)).astype(np.float32)
    names = names_of("torchvision", model)
    variables = param_mapping.to_variables(
        drawn.weights(source_shapes(model, names), spread_norms=True), names
    )

    @partial(jax.jit, static_argnames=("rate", "train"))
    def logits(rate, train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        dropping = model.clone(dropout=rate)
        return dropping.apply(variables, images, train=train, rngs=rngs)["logits"]

    plain = logits(0.0, True, 0)
    np.testing.assert_allclose(logits(0.5, False, 0), plain, rtol=1e-5)
    first, again, other = (logits(0.5, True, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first, plain)


@pytest.mark.parametrize(
    "model, enough", [(ALEXNET, 63), (TWO_TOWERS, 67), (CASES["squeezenet1_0"][1], 21),
                      (CASES["squeezenet1_1"][1], 17)],
)  # fmt: skip
def test_too_small_images_are_an_error(model: nn.Module, enough: int) -> None:
    def outputs(size):
        images = jax.ShapeDtypeStruct((1, size, 80, 3), jnp.float32)
        return jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0]

    assert 0 not in outputs(enough)["features"].shape
    with pytest.raises(ValueError, match=f"{enough - 1}x80 are too small"):
        outputs(enough - 1)


def test_two_towers_have_no_counterpart() -> None:
    with pytest.raises(ValueError, match="two towers"):
        mappings.tables(TWO_TOWERS)["torchvision"](TWO_TOWERS)
