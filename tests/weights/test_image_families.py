"""Published image families: the outputs of timm and transformers, and their files back."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from stored import REFERENCES

import jaxtag
from jaxtag import models, weights
from jaxtag.weights import hf_config, mappings, param_mapping, timm_config

FILES = sorted(path.stem.removeprefix("families_") for path in REFERENCES.glob("families_*"))
CLASSES = 5
# Of the others the outputs are slow proofs: their layers and tokens are in these.
COMPILED = ("timm_dinov2_giant", "transformers_convnextv2", "transformers_deit")
COMPILED += ("transformers_dinov2_registers",)


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
    """At the size of the position embeddings, and at another."""
    tensors, config = unpack(name, tmp_path)
    _, model = create(name, config)
    variables = weights.load(tmp_path, model)
    output = "logits" if model.num_classes else "features"
    apply = jax.jit(lambda variables, images: model.apply(variables, images)[output])
    keys = ["images"]
    if name.endswith("registers") or (name not in COMPILED and "other_images" in tensors):
        keys.append("other_images")
    for key in keys:
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


def test_a_wd_tagger_takes_rgb_on_a_white_square(tmp_path) -> None:
    tensors, _ = unpack("timm_tagger", tmp_path)
    (tmp_path / "selected_tags.csv").write_text("name\n" + "\n".join("abcde") + "\n")
    predictor = jaxtag.load(tmp_path)
    assert predictor.config.data.eval_fit == "pad"
    bgr = np.round((tensors["images"] + 1) * 127.5).astype(np.uint8)
    for prediction, logits in zip(
        predictor(bgr[..., ::-1], top_k=5), tensors["images/outputs"], strict=True
    ):
        probabilities = dict(zip("abcde", 1 / (1 + np.exp(-logits)), strict=True))
        assert dict(prediction.tags) == pytest.approx(probabilities, abs=1e-4)


def test_names_of_dinov2s_own_repository() -> None:
    """timm's but for registers and the gated feed-forward."""
    fields = {"depth": 1, "width": 8, "heads": 1, "image_size": 28}
    for name, extra in (("small", {"registers": 2}), ("giant", {"activation": "swiglu"})):
        model = models.create_model(f"vit_{name}_patch14_dinov2", **fields, **extra)
        theirs, ours = (mappings.tables(model)[library](model) for library in ("dinov2", "timm"))
        renamed = set(param_mapping.source_names(theirs)) - set(param_mapping.source_names(ours))
        expected = {"register_tokens"} if name == "small" else set()
        if name == "giant":
            expected = {f"blocks.0.mlp.{n}.{p}" for n in ("w12", "w3") for p in ("weight", "bias")}
        assert renamed == expected
