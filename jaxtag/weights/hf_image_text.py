"""`config.json` of transformers for CLIP and SigLIP (fixed-size SigLIP 2 included), both ways."""

import json
import math
from collections.abc import Mapping
from typing import Any, cast

from jaxtag.data.tokenizer import PAD, Tokenizer
from jaxtag.models.image_text import ImageText
from jaxtag.models.text_encoder import TextEncoder
from jaxtag.models.vit import ViT
from jaxtag.weights.mappings import image_text

MODEL_TYPES = ("clip", "siglip")
_TOWER_TYPES = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
# transformers' defaults, which its files may leave out.
_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": {
        "text_config": {
            "vocab_size": 49408,
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "eos_token_id": 49407,
        },
        "vision_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 32,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
    },
    "siglip": {
        "text_config": {
            "vocab_size": 32000,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 64,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
        },
        "vision_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "vision_use_head": True,
        },
    },
}
_LEGACY_EOS = 2  # of files whose CLIP pools at the highest id instead, the last of the vocabulary


def parse_config(values: Mapping[str, Any]) -> ImageText:
    """The model of a config.json.

    Raises:
        ValueError, KeyError, TypeError: it has a setting without a counterpart, or is damaged.
    """
    kind = values["model_type"]
    text, vision = (_section(values, kind, name) for name in ("text_config", "vision_config"))
    encoder = _image_fields(vision)
    text_fields = {
        "vocab_size": text["vocab_size"],
        "max_length": text["max_position_embeddings"],
        **_shared(text),
    }
    if kind == "clip":
        eos = text["eos_token_id"]
        text_fields["eos_id"] = text["vocab_size"] - 1 if eos == _LEGACY_EOS else eos
        return clip(encoder, text_fields, values.get("projection_dim", 512))
    projection = text.get("projection_size", text["hidden_size"])
    if projection != vision["hidden_size"]:
        raise ValueError(f"projection_size must be the vision model's {vision['hidden_size']}")
    return siglip(encoder, text_fields)


def parse_tower(values: Mapping[str, Any]) -> ViT | None:
    """The image tower that a config.json describes, alone or within a whole model.

    Returns:
        None for a config.json of another model.

    Raises:
        ValueError, KeyError, TypeError: as of `parse_config`.
    """
    model_type = values.get("model_type")
    if model_type in MODEL_TYPES:
        kind, vision = model_type, _section(values, model_type, "vision_config")
    elif model_type in _TOWER_TYPES:
        kind = _TOWER_TYPES[model_type]
        vision = {**_DEFAULTS[kind]["vision_config"], **values}
    else:
        return None
    make = clip_tower if kind == "clip" else siglip_tower
    return make(_image_fields(vision))


def clip_tower(image: Mapping[str, Any]) -> ViT:
    """The image tower of a CLIP from the fields that differ between sizes."""
    return ViT(**image, class_token=True, pre_norm=True, patch_bias=False)


def siglip_tower(image: Mapping[str, Any]) -> ViT:
    """The image tower of a SigLIP, likewise."""
    return ViT(**image, class_token=False, pool="map")


def clip(image: Mapping[str, Any], text: Mapping[str, Any], embed_dim: int) -> ImageText:
    """A CLIP from the fields of its encoders that differ between sizes."""
    return ImageText(clip_tower(image), TextEncoder(**text), embed_dim)


def siglip(image: Mapping[str, Any], text: Mapping[str, Any]) -> ImageText:
    """A SigLIP from the fields of its encoders that differ between sizes."""
    return ImageText(
        siglip_tower(image),
        TextEncoder(**text, causal=False, pool="last"),
        image["width"],
        image_projection=False,
        projection_bias=True,
        init_logit_scale=10.0,
        init_logit_bias=-10.0,
    )


def make_config(model: ImageText) -> dict[str, Any]:
    """The configuration that `transformers.CLIPModel` or `SiglipModel` loads.

    Raises:
        ValueError: the model is neither.
    """
    is_siglip = image_text.is_siglip(model)
    kind = "siglip" if is_siglip else "clip"
    image, text = cast(ViT, model.image_encoder), model.text_encoder
    vision_config = {
        "model_type": f"{kind}_vision_model",
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        "num_channels": 3,
        **_their_shared(image),
    }
    text_config = {
        "model_type": f"{kind}_text_model",
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_length,
        **_their_shared(text),
    }
    config: dict[str, Any] = {"model_type": kind, "dtype": "float32"}
    if is_siglip:
        config["architectures"] = ["SiglipModel"]
        text_config |= {"projection_size": model.embed_dim}
    else:
        config["architectures"] = ["CLIPModel"]
        config["projection_dim"] = model.embed_dim
        config["logit_scale_init_value"] = math.log(model.init_logit_scale)
        text_config |= {"eos_token_id": text.eos_id}
        for section in (text_config, vision_config):
            section["projection_dim"] = model.embed_dim
    return {**config, "text_config": text_config, "vision_config": vision_config}


def tokenizer_files(tokenizer: Tokenizer, model: ImageText) -> dict[str, dict[str, Any]]:
    """The tokenizer's files by name, as `AutoTokenizer.from_pretrained` reads them."""
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    # A causal encoder pools before what fills a text, which may then be any token.
    ids["pad_token"] = tokenizer.eos_id if tokenizer.pad_id == PAD else tokenizer.pad_id
    marks = {name: tokenizer.token(i) for name, i in ids.items() if i is not None}
    return {
        "tokenizer.json": json.loads(tokenizer.to_json()),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.text_encoder.max_length,
            **marks,
        },
    }


def _section(values: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{name} must be an object")
    return _DEFAULTS[kind][name] | section


def _image_fields(vision: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an image tower that differ between sizes."""
    if vision.get("num_channels", 3) != 3:
        raise ValueError("num_channels must be 3")
    if not vision.get("vision_use_head", True):
        raise ValueError("vision_use_head must be true")
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        **_shared(vision),
    }


def _shared(section: Mapping[str, Any]) -> dict[str, Any]:
    activation = section["hidden_act"]
    if activation not in ACTIVATIONS:
        raise ValueError(f"hidden_act must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    return {
        "width": section["hidden_size"],
        "depth": section["num_hidden_layers"],
        "heads": section["num_attention_heads"],
        "mlp_dim": section["intermediate_size"],
        "activation": ACTIVATIONS[activation],
        "norm_eps": section["layer_norm_eps"],
    }


def _their_shared(encoder: ViT | TextEncoder) -> dict[str, Any]:
    """The inverse of `_shared`."""
    activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.mlp_dim,
        "hidden_act": activations[encoder.activation],
        "layer_norm_eps": encoder.norm_eps,
    }
