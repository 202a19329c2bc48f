"""What stands beside weights in other libraries' folders: configurations and preprocessing."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from stored import REFERENCES

from jaxtag import models, weights
from jaxtag.errors import UserError
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.weights import hf_config


@pytest.fixture
def weights_file(tmp_path) -> Path:
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


CONFIGS = json.loads((REFERENCES / "weights_configs.json").read_text())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name in models.list_models()])
def test_configurations_are_those_of_transformers(name: str) -> None:
    expected = CONFIGS[name]
    fields = {
        "efficientnet_b7": {"padding": "same", "norm_eps": 1e-3, "drop_path": 0.2},
        "mobilenet_v1": {"dropout": 0.999},
        "mobilenet_v2": {"padding": "same", "norm_eps": 1e-3, "dropout": 0.8},
        "vit_base_patch16": {"norm_eps": 1e-12},
    }.get(name, {})
    got = hf_config.make_config(models.create_model(name, num_classes=3, **fields), 3, 600)
    assert got.pop("architectures")[0].endswith("ForImageClassification")
    got["id2label"] = {int(key): label for key, label in got["id2label"].items()}
    expected["id2label"] = {int(key): label for key, label in expected["id2label"].items()}
    if name == "efficientnet_b7":  # the class's default lacks what the published file has
        expected["depthwise_padding"] = [18]
    theirs = {key: expected.get(key, "absent") for key in got if key != "dtype"}
    del got["dtype"]
    assert got == theirs


@pytest.mark.parametrize(
    "name, blocks",
    [("b0", []), ("b1", [16]), ("b3", [5, 18]), ("b4", [6]), ("b5", [13, 27]), ("b7", [18])],
)
def test_efficientnets_evenly_padded_blocks_are_those_of_the_published_files(name, blocks) -> None:
    """`depthwise_padding` of google/efficientnet-b0 and so on."""
    name = f"efficientnet_{name}"
    model = models.create_model(name, num_classes=3, padding="same")
    size = models.get_preprocessing(name).image_size
    assert hf_config.make_config(model, 3, size)["depthwise_padding"] == blocks


def test_an_efficientnet_of_transformers_needs_its_size(tmp_path) -> None:
    model = models.create_model("efficientnet_b0", num_classes=3, padding="same", width=0.5)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    with pytest.raises(UserError, match="say image_size"):
        weights.save(tmp_path / "a", model, zeros, "transformers")
    with pytest.raises(UserError, match=r"odd size \(71\)"):
        weights.save(tmp_path / "a", model, zeros, "transformers", image_size=71)


@pytest.mark.parametrize(
    "file, values, expected",
    [
        (
            "preprocessor_config.json",
            {"size": 224, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2},
            Preprocessing(224, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0, squash=True),
        ),
        (
            "preprocessor_config.json",
            {
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
                "image_mean": [0.1, 0.2, 0.3],
                "image_std": [0.4, 0.5, 0.6],
                "resample": 3,
            },
            Preprocessing(224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.875),
        ),
        (
            "preprocessor_config.json",
            {
                "size": {"shortest_edge": 224},
                "crop_pct": 0.875,
                "resample": 3,
                "image_mean": [0.1, 0.2, 0.3],
                "image_std": [0.4, 0.5, 0.6],
            },
            Preprocessing(224, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.875),
        ),
        (  # of ConvNeXt: no crop from 384 pixels on
            "preprocessor_config.json",
            {
                "size": {"shortest_edge": 384},
                "crop_pct": 0.875,
                "resample": 3,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            },
            Preprocessing(384, (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0, squash=True),
        ),
        (  # of DeiT: squashed, then cropped
            "preprocessor_config.json",
            {
                "size": {"height": 256, "width": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
                "resample": 3,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
            },
            Preprocessing(224, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875, squash=True),
        ),
        (
            "config.json",
            {
                "pretrained_cfg": {
                    "input_size": [3, 288, 288],
                    "mean": [0.1, 0.2, 0.3],
                    "std": [0.4, 0.5, 0.6],
                    "interpolation": "bicubic",
                    "crop_pct": 0.95,
                }
            },
            Preprocessing(288, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.95),
        ),
    ],
)
def test_preprocessing_is_read(weights_file, file, values, expected) -> None:
    assert weights.load_preprocessing(weights_file) is None
    (weights_file.parent / file).write_text(json.dumps(values))
    assert weights.load_preprocessing(weights_file) == expected
    assert weights.load_preprocessing(weights_file.parent) == expected
    (weights_file.parent / file).write_text(json.dumps(values)[:-3])
    with pytest.raises(UserError, match=file.replace(".", r"\.") + " is damaged"):
        weights.load_preprocessing(weights_file)


def test_preprocessing_that_is_not_here_is_refused(tmp_path) -> None:
    values = {"size": {"height": 224, "width": 112}, "image_mean": [0], "image_std": [1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="not square"):
        weights.load_preprocessing(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 224, "resample": 1}')
    with pytest.raises(UserError, match="image_mean"):
        weights.load_preprocessing(tmp_path)
