"""Models as ONNX compute in ONNX Runtime what jaxtag computes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported_models import random_variables

import jaxtag
from jaxtag.models import registry

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from jaxtag.export.onnx_convert import to_onnx  # noqa: E402
from jaxtag.kernels.implementations import default_forms  # noqa: E402
from jaxtag.models.vit import ViT  # noqa: E402

TOLERANCE = 1e-4  # of the largest value
MAX_PARAMETERS = 120_000_000  # of more, a model is tried with two layers
OUTPUTS = ("logits", "pooled")
# Of kernels (see `random_variables`) where the usual 2 lets activations grow from block to block
# until gates flip by a rounding: ONNX Runtime then differs from itself without its optimizations,
# by 6 % for efficientnet_b4. With these by 1e-6, and two images by 1 % of the largest output.
GAINS = {f"efficientnet_b{n}": gain for n, gain in ((4, 1.7), (5, 1.7), (6, 1.7), (7, 1.6))}


def difference(name: str, size: int, sizes: Sequence[tuple[int, int]] = (), **fields) -> float:
    """The largest difference of a model's outputs, of two images.

    Args:
        size: of the images, and of the model's position embeddings.
        sizes: heights and widths of images instead, of a file that takes any.
    """
    if "image_size" in registry.field_names(name):
        fields["image_size"] = size
    model = jaxtag.create_model(name, num_classes=10, **fields)
    channels = len(registry.get_preprocessing(name).mean)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, channels)))
    variables = random_variables(shapes, gain=GAINS.get(name, 2.0))

    def compute(images):
        outputs = model.apply(variables, images)
        return {key: outputs[key] for key in OUTPUTS}

    any_size = jax.export.symbolic_shape(
        "batch, height, width", constraints=["height >= 32", "width >= 32"]
    )
    shape = any_size if sizes else (any_size[0], size, size)
    spec = jax.ShapeDtypeStruct((*shape, channels), jnp.float32)
    converted = to_onnx(compute, {"images": spec}).SerializeToString()
    session = onnxruntime.InferenceSession(converted)
    differences = []
    for height, width in sizes or [(size, size)]:
        random = np.random.default_rng(0)
        images = random.normal(size=(2, height, width, channels)).astype(np.float32)
        computed = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images}), strict=True))
        options = {"xla_backend_optimization_level": 0}
        with default_forms():
            expected = jax.jit(compute, compiler_options=options)(images)
        differences += [
            np.abs(computed[key] - value).max() / np.abs(value).max()
            for key, value in expected.items()
        ]
    return max(differences)


@pytest.mark.parametrize(
    ("name", "size", "fields"),
    [
        ("squeezenet1_1", 33, {}),  # pooling beyond the border
        pytest.param("vit_tiny_patch16", 32, {"depth": 1}, marks=pytest.mark.slow),
        ("capsnet", 28, {"channels": 16, "types": 2}),
    ],
)
def test_onnxruntime_computes_what_jaxtag_does(name: str, size: int, fields: dict) -> None:
    assert difference(name, size, **fields) < TOLERANCE


def test_another_function_is_noticed() -> None:
    """The comparison is of the images' outputs, not of constants."""
    ones = onnx_of(lambda x: {"y": x.sum(-1) + 1}, (3,))
    assert np.abs(ones - np.array([3.0, 3.0])).max() > TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", jaxtag.list_models())
def test_every_registered_name(name: str) -> None:
    size = registry.get_preprocessing(name).image_size
    model = jaxtag.create_model(name)
    channels = len(registry.get_preprocessing(name).mean)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, channels)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    fields = {"depth": 2} if parameters > MAX_PARAMETERS else {}
    assert difference(name, size, **fields) < TOLERANCE


VITS = [name for name in jaxtag.list_models() if registry.module_class(name) is ViT]


@pytest.mark.slow
@pytest.mark.parametrize("name", VITS)
def test_every_vit_of_any_size(name: str) -> None:
    sizes = [(112, 112), (57, 169), (225, 64)]
    assert difference(name, 112, sizes, depth=2) < TOLERANCE


def onnx_of(function, *sizes: tuple[int, ...]) -> np.ndarray:
    """`y` of a function of arrays [batch, *size] of ones, two of them."""
    (batch,) = jax.export.symbolic_shape("batch")
    inputs = {
        f"x{n}" if n else "x": jax.ShapeDtypeStruct((batch, *size), jnp.float32)
        for n, size in enumerate(sizes)
    }
    session = onnxruntime.InferenceSession(to_onnx(function, inputs).SerializeToString())
    feed = {name: np.ones((2, *spec.shape[1:]), np.float32) for name, spec in inputs.items()}
    return session.run(["y"], feed)[0]
