"""CLIP and SigLIP of transformers and open_clip: the same outputs, and the same files back."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from stored_image_text import CONFIGS, NAMES, unpack

from jaxtag import weights
from jaxtag.errors import UserError
from jaxtag.models import ImageText
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.weights import hf_image_text, open_clip_config
from jaxtag.weights.image_text_files import is_image_text, read_model


def small_model(name: str, folder: Path) -> ImageText:
    """By the configuration; of open_clip's SigLIP, whose trunk timm has no such name for."""
    if name != "open_clip_siglip":
        return read_model(folder)
    shared = {"depth": 2, "heads": 2, "norm_eps": 1e-6}
    image = {"image_size": 16, "patch_size": 8, "width": 24, "mlp_dim": 96}
    text = {"vocab_size": 40, "max_length": 8, "width": 16, "mlp_dim": 64}
    return hf_image_text.siglip(image | shared, text | shared)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_files_are_those_of_the_library(name: str, tmp_path: Path, capsys) -> None:
    stored = unpack(name, tmp_path / "source")
    model = small_model(name, tmp_path / "source")
    if name == "open_clip_siglip":
        (tmp_path / "source" / "open_clip_config.json").unlink()
    variables = weights.load(tmp_path / "source", model)
    outputs = jax.jit(model.apply)(variables, stored["images"], stored["tokens"])
    np.testing.assert_allclose(outputs["image_embedding"], stored["image"], atol=1e-5)
    np.testing.assert_allclose(outputs["text_embedding"], stored["text"], atol=1e-5)
    np.testing.assert_allclose(outputs["logits"], stored["logits"], atol=1e-4)
    assert capsys.readouterr().err == ""

    library = "open_clip" if name.startswith("open") else "transformers"
    target = tmp_path / "target" / "weights.safetensors"
    weights.save(target, model, variables, library=library)
    written = load_file(target)
    assert written.keys() == stored["tensors"].keys()
    for tensor, array in stored["tensors"].items():
        np.testing.assert_array_equal(written[tensor], array, err_msg=tensor, strict=True)
    if library == "transformers":
        config = json.loads((target.parent / "config.json").read_text())
        assert read_model(target.parent) == model
        for section in ("text_config", "vision_config"):
            theirs = CONFIGS[name][section] | {"projection_dim": 12}
            assert config[section].items() <= theirs.items()


def test_layers_may_be_stacked(tmp_path: Path) -> None:
    stored = unpack("open_clip", tmp_path)
    plain = read_model(tmp_path)
    model = plain.clone(
        image_encoder=plain.image_encoder.clone(scan=True),
        text_encoder=plain.text_encoder.clone(scan=True),
    )
    variables = weights.load(tmp_path, model)
    blocks = variables["params"]["text_encoder"]["blocks"]
    fused = stored["tensors"]["transformer.resblocks.1.attn.in_proj_weight"]
    np.testing.assert_array_equal(blocks["qkv"]["kernel"][1, :, 2], fused[32:].T)


def test_open_clip_configurations_go_both_ways(tmp_path: Path) -> None:
    assert not is_image_text(tmp_path)
    unpack("open_clip", tmp_path)
    assert is_image_text(tmp_path)
    preprocessing = weights.load_preprocessing(tmp_path)
    assert preprocessing is not None and preprocessing.image_size == 16
    assert (preprocessing.crop, preprocessing.squash) == (1.0, False)
    made = open_clip_config.make_config(read_model(tmp_path), preprocessing)
    assert open_clip_config.parse_config(made) == read_model(tmp_path)
    assert open_clip_config.parse_preprocessing(made) == preprocessing

    values = CONFIGS["open_clip_siglip"]
    model = open_clip_config.parse_config(values)
    assert model.image_encoder.width == model.embed_dim == 768
    made = open_clip_config.make_config(model, open_clip_config.parse_preprocessing(values))
    assert open_clip_config.parse_config(made) == model
    assert made["model_cfg"]["vision_cfg"]["timm_model_name"] == "vit_base_patch16_siglip_16"
    assert open_clip_config.parse_preprocessing(made).squash


@pytest.mark.parametrize(
    ("trunk", "activation"),
    [
        ("so400m_patch14", "gelu"),
        ("so400m_patch16", "gelu_tanh"),
        ("giantopt_patch16", "gelu_tanh"),
    ],
)
def test_a_trunk_has_the_activation_that_timm_gives_it(trunk: str, activation: str) -> None:
    values = json.loads(json.dumps(CONFIGS["open_clip_siglip"]))
    values["model_cfg"]["vision_cfg"]["timm_model_name"] = f"vit_{trunk}_siglip_16"
    model = open_clip_config.parse_config(values)
    assert model.image_encoder.activation == activation
    assert open_clip_config.parse_config(open_clip_config.make_config(model, None)) == model


@pytest.mark.parametrize("name", ["transformers_clip", "transformers_siglip"])
def test_preprocessing_of_transformers(name: str, tmp_path: Path) -> None:
    text = json.dumps(CONFIGS["processors"][name])
    (tmp_path / "preprocessor_config.json").write_text(text)
    preprocessing = weights.load_preprocessing(tmp_path)
    is_clip = name.endswith("_clip")
    assert preprocessing is not None
    assert preprocessing == Preprocessing(
        16,
        (0.48145466, 0.4578275, 0.40821073) if is_clip else (0.5,) * 3,
        (0.26862954, 0.26130258, 0.27577711) if is_clip else (0.5,) * 3,
        "bicubic",
        crop=1.0,
        squash=not is_clip,
    )


def test_an_older_clip_pools_at_its_last_id(tmp_path: Path) -> None:
    """Files of before transformers 4.31 say 2, and mean the highest id."""
    values = json.loads(json.dumps(CONFIGS["transformers_clip"]))
    values["text_config"]["eos_token_id"] = 2
    assert hf_image_text.parse_config(values).text_encoder.eos_id == 39
    values["text_config"] = None  # left out: transformers' defaults
    assert hf_image_text.parse_config(values).text_encoder.vocab_size == 49408


@pytest.mark.parametrize(
    ("name", "section", "changes", "complaint"),
    [
        ("transformers_clip", "text_config", {"hidden_act": "relu"}, "hidden_act must be one of"),
        ("transformers_siglip", "vision_config", {"vision_use_head": False}, "vision_use_head"),
        ("transformers_siglip", "text_config", {"projection_size": 5}, "projection_size must be"),
        ("open_clip", "vision_cfg", {"layers": [3, 4]}, "cannot be used"),
        ("open_clip", "text_cfg", {"hf_model_name": "bert"}, "hf_model_name has no counterpart"),
        ("open_clip_siglip", "vision_cfg", {"timm_model_name": "convnext"}, "no SigLIP"),
    ],
)
def test_what_has_no_counterpart_is_named(
    name: str, section: str, changes: dict, complaint: str, tmp_path: Path
) -> None:
    unpack(name, tmp_path)
    values = json.loads(json.dumps(CONFIGS[name]))
    values.get("model_cfg", values)[section] |= changes
    file = "config.json" if name.startswith("transformers") else "open_clip_config.json"
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(UserError, match=complaint):
        weights.load(tmp_path, read_model(tmp_path))


def test_a_model_that_computes_otherwise_is_refused(tmp_path: Path) -> None:
    unpack("transformers_clip", tmp_path)
    model = read_model(tmp_path)
    model = model.clone(text_encoder=model.text_encoder.clone(activation="gelu"))
    with pytest.raises(UserError, match=r"text_encoder\.activation = 'quick_gelu', the model has"):
        weights.load(tmp_path, model)
    other = model.clone(text_encoder=model.text_encoder.clone(causal=False))
    with pytest.raises(UserError, match=r"text_encoder\.causal = False is neither CLIP's nor"):
        weights.save(tmp_path / "x.safetensors", other, {}, library="transformers")
