"""ML-Decoder: equal to the authors' with the same weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag.models import MLDecoder

STORED = load_file(REFERENCES / "tagging.safetensors")
IMAGES = STORED["pictures"].reshape(2, 2, 2, 6)


class Identity(nn.Module):
    """A backbone whose features are the image itself, as a map or as a sequence of pixels."""

    sequence: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        images = jnp.asarray(images)
        features = images.reshape(2, 4, 6) if self.sequence else images
        return {"features": features, "pooled": images.mean((1, 2))}


def tagger(sequence: bool = False, **fields) -> MLDecoder:
    fields = {"tags": 7, "groups": 3, "width": 8, "heads": 2, **fields}
    return MLDecoder(Identity(sequence), **fields)


def weights() -> dict:
    names = [name for name in STORED if name.startswith("params/")]
    return unflatten_dict({name: STORED[name] for name in names}, sep="/")


@pytest.mark.parametrize("sequence", [True, False], ids=["sequence", "map"])
def test_it_equals_ml_decoder(sequence: bool) -> None:
    outputs = tagger(sequence).apply(weights(), IMAGES)
    np.testing.assert_allclose(outputs["logits"], STORED["query_head_logits"], rtol=1e-5, atol=1e-5)
    assert {"features", "pooled"} <= set(outputs)


def test_its_parameters_are_those_of_the_reference() -> None:
    shapes = jax.eval_shape(tagger().init, jax.random.key(0), IMAGES)
    expected = {name: value.shape for name, value in flatten_dict(weights()).items()}
    assert {name: value.shape for name, value in flatten_dict(shapes).items()} == expected


def test_few_tags_have_a_query_each_and_dropout_is_of_training_alone() -> None:
    model = tagger(groups=100, dropout=0.5)
    variables = model.init(jax.random.key(0), IMAGES)
    assert variables["params"]["queries"].shape == (7, 8)
    assert variables["params"]["head_kernel"].shape == (7, 8, 1)
    plain = model.apply(variables, IMAGES)["logits"]
    np.testing.assert_array_equal(plain, model.apply(variables, IMAGES)["logits"])
    dropped = model.apply(variables, IMAGES, True, rngs={"dropout": jax.random.key(1)})["logits"]
    assert not np.allclose(plain, dropped)
