"""The query head: equal to ML-Decoder with the same weights."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file
from stored import REFERENCES

from jaxtag.models import MLDecoder

FOUND = load_file(REFERENCES / "tagging.safetensors")
PICTURES = FOUND["pictures"]  # [2, 4, 6]


class Given(nn.Module):
    """Gives the picture itself as features."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        return {"features": images, "pooled": images.mean((1, 2))}


def tagger(**fields) -> MLDecoder:
    return MLDecoder(Given(), **{"tags": 7, "groups": 3, "width": 8, "heads": 2, **fields})


def weights() -> dict:
    names = [name for name in FOUND if name.startswith("params/")]
    return unflatten_dict({name: FOUND[name] for name in names}, sep="/")


@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 2, 2, 6)], ids=["sequence", "map"])
def test_it_equals_ml_decoder(shape) -> None:
    outputs = tagger().apply(weights(), PICTURES.reshape(shape))
    np.testing.assert_allclose(outputs["logits"], FOUND["query_head_logits"], rtol=1e-5, atol=1e-5)
    assert {"features", "pooled"} <= set(outputs)


def test_its_parameters_are_those_of_the_reference() -> None:
    shapes = jax.eval_shape(tagger().init, jax.random.key(0), PICTURES)
    expected = {name: value.shape for name, value in flatten_dict(weights()).items()}
    assert {name: value.shape for name, value in flatten_dict(shapes).items()} == expected


def test_few_tags_have_a_query_each_and_dropout_is_of_training_alone() -> None:
    model = tagger(groups=100, dropout=0.5)
    variables = model.init(jax.random.key(0), PICTURES)
    assert variables["params"]["queries"].shape == (7, 8)
    assert variables["params"]["head_kernel"].shape == (7, 8, 1)
    plain = model.apply(variables, PICTURES)["logits"]
    np.testing.assert_array_equal(plain, model.apply(variables, PICTURES)["logits"])
    dropped = model.apply(variables, PICTURES, True, rngs={"dropout": jax.random.key(1)})["logits"]
    assert not np.allclose(plain, dropped)
