"""Published image families: the outputs of timm and transformers, and their files back."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from stored import REFERENCES

from jaxtag import models, weights
from jaxtag.weights import hf_config, timm_config

FILES = sorted(path.stem.removeprefix("families_") for path in REFERENCES.glob("families_*"))
CLASSES = 5
# Of the others the outputs are slow proofs: their layers and tokens are in these.
COMPILED = ("timm_convnext", "timm_dinov2_giant", "timm_tagger_fc_norm", "transformers_convnextv2")
COMPILED += ("transformers_deit", "transformers_dinov2_registers")


def unpack(name: str, folder: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Writes their folder; returns all tensors of the reference, and their config.json."""
    with safe_open(REFERENCES / f"families_{name}.safetensors", "np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = file.metadata()["config"]
    (folder / "config.json").write_text(config)
    named = {k.removeprefix("weights/"): t for k, t in tensors.items() if k.startswith("weights/")}
    save_file(named, folder / "model.safetensors")
    return tensors, json.loads(config)


def create(name: str, config: dict) -> tuple[str, object]:
    """(the registered name, the model that their configuration describes)."""
    parse = timm_config.parse_config if name.startswith("timm") else hf_config.parse_config
    registered, fields = parse(config, "config.json")
    classes = 0 if name.endswith("swiglu") else CLASSES  # that one is without a classifier
    return registered, models.create_model(registered, num_classes=classes, **fields)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in COMPILED else pytest.mark.slow) for n in FILES]
)
def test_outputs_are_the_librarys(tmp_path, name: str) -> None:
    tensors, config = unpack(name, tmp_path)
    _, model = create(name, config)
    variables = weights.load(tmp_path, model)
    output = "logits" if model.num_classes else "features"
    apply = jax.jit(lambda variables, images: model.apply(variables, images)[output])
    for key in ("images", "other_images"):
        if key in tensors:
            values = apply(variables, tensors[key])
            np.testing.assert_allclose(values, tensors[f"{key}/outputs"], atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", FILES)
def test_files_come_back(tmp_path, name: str) -> None:
    _, config = unpack(name, tmp_path)
    library = name.partition("_")[0]
    _, model = create(name, config)
    variables = weights.load(tmp_path, model)
    again = tmp_path / "again"
    weights.save(again, model, variables, library)
    saved = load_file(again / "model.safetensors")
    expected = load_file(tmp_path / "model.safetensors")
    prefix = "dinov2." if name.endswith("swiglu") else ""  # their model without a head has none
    saved = {key.removeprefix(prefix): tensor for key, tensor in saved.items()}
    assert saved.keys() == {key for key in expected if not key.endswith("mask_token")}
    for key, tensor in saved.items():
        np.testing.assert_array_equal(tensor, expected[key], err_msg=key)
    written = json.loads((again / "config.json").read_text())
    assert create(name, {**written, "num_labels": CLASSES})[1] == model
