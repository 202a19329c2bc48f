"""Models that are split over devices as in training are evaluated and used without being joined."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxtag
from jaxtag.config import serialization
from jaxtag.config.schema import MeshConfig
from jaxtag.inference import predictor


@pytest.fixture(scope="module")
def config(tiny_run):
    mesh = MeshConfig(fsdp=2, tensor=2)
    return dataclasses.replace(serialization.load(tiny_run), mesh=mesh)


def test_weights_stay_split_and_predictions_are_the_same(tiny_run, config):
    whole, split = predictor.load(tiny_run), predictor.load(tiny_run, config)
    assert dict(split.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    leaves = jax.tree.leaves(split.variables["params"])
    held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
    assert held < 0.6 * sum(leaf.size for leaf in leaves)
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), np.uint8)
    rows, others = (list(model.predict_rows(list(images))) for model in (whole, split))
    assert [row["caption"] for row in rows] == [row["caption"] for row in others]
    np.testing.assert_allclose(
        [row["score"] for row in rows], [row["score"] for row in others], rtol=1e-3
    )
    np.testing.assert_allclose(whole.features(images), split.features(images), rtol=1e-3, atol=1e-4)


def test_evaluation_with_split_weights(tiny_run, config):
    whole, split = jaxtag.evaluate(tiny_run), jaxtag.evaluate(tiny_run, config=config)
    assert whole.keys() == split.keys()
    assert split["perplexity"] == pytest.approx(whole["perplexity"], rel=1e-3)


def test_a_mesh_that_does_not_fit_here_is_left_out(tiny_run, config):
    config = dataclasses.replace(config, mesh=MeshConfig(fsdp=16, tensor=3))
    mesh = predictor._make_mesh(config)
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}
