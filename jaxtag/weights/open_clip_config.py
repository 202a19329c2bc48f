"""`open_clip_config.json` of open_clip's models on the Hub: model and preprocessing, both ways."""

import re
from collections.abc import Mapping
from typing import Any, cast

from jaxtag.models.image_text import ImageText
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.vit import IMAGE_TOWERS, ViT
from jaxtag.weights import hf_image_text
from jaxtag.weights.mappings import image_text

FILE, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_TRUNK = re.compile(r"vit_(\w+?)_patch(\d+)_siglip_(\d+)")  # of timm: size, patch, image size
_TRUNK_SIZES = {name: IMAGE_TOWERS[name] for name in ("base", "large", "so400m", "giantopt")}
# What a configuration may set; anything else has no counterpart here.
_KNOWN = {
    "model_cfg": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text"}
    | {"init_logit_bias", "init_logit_scale"},
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
    | {"timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
    | {"no_causal_mask", "proj_bias", "pool_type", "norm_kwargs", "act_kwargs"}
    | {"hf_tokenizer_name", "tokenizer_kwargs"},
}
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's, where the file names none
_STD = (0.26862954, 0.26130258, 0.27577711)


def parse_config(values: Mapping[str, Any]) -> ImageText:
    """The model of a configuration.

    Raises:
        ValueError, KeyError, TypeError: it has a setting without a counterpart, or is damaged.
    """
    model = values["model_cfg"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    _check_known(model=model, text=text)
    width = text.get("width", 512)
    text_fields = {
        "vocab_size": text.get("vocab_size", 49408),
        "max_length": text.get("context_length", 77),
        "width": width,
        "depth": text.get("layers", 12),
        "heads": text.get("heads", 8),
        "mlp_dim": int(width * text.get("mlp_ratio", 4.0)),
        "norm_eps": text.get("norm_kwargs", {}).get("eps", 1e-5),
    }
    if "timm_model_name" in vision:
        is_siglip = text.get("pool_type") == "last"
        if not (is_siglip and text.get("no_causal_mask") and text.get("proj_bias")):
            raise ValueError("text_cfg is no SigLIP's")
        is_tanh = text.get("act_kwargs", {}).get("approximate") == "tanh"
        text_fields["activation"] = "gelu_tanh" if is_tanh else "gelu"
        return hf_image_text.siglip(_siglip_image(vision), text_fields)
    if model.get("custom_text") or text.get("pool_type", "argmax") != "argmax":
        raise ValueError("a text tower of its own kind (custom_text, pool_type) has no counterpart")
    image = _clip_image(model)
    text_fields |= {"activation": image["activation"], "eos_id": text_fields["vocab_size"] - 1}
    return hf_image_text.clip(image, text_fields, model["embed_dim"])


def parse_tower(values: Mapping[str, Any]) -> ViT:
    """The image tower of a configuration, whatever its text tower is. Raises as `parse_config`."""
    model = values["model_cfg"]
    if "timm_model_name" in model["vision_cfg"]:
        return hf_image_text.siglip_tower(_siglip_image(model["vision_cfg"]))
    return hf_image_text.clip_tower(_clip_image(model))


def _check_known(**sections: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting of model_cfg, vision_cfg or text_cfg without counterpart."""
    for name, section in sections.items():
        if others := sorted(set(section) - _KNOWN[f"{name}_cfg"]):
            raise ValueError(f"{name}_cfg.{others[0]} has no counterpart")


def _clip_image(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a CLIP's image tower."""
    vision = model["vision_cfg"]
    _check_known(vision=vision)
    width = vision["width"]
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "width": width,
        "depth": vision["layers"],
        "heads": width // vision.get("head_width", 64),
        "mlp_dim": int(width * vision.get("mlp_ratio", 4.0)),
        "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "norm_eps": 1e-5,
    }


def _siglip_image(vision: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a SigLIP's image tower, which open_clip makes by its name in timm."""
    _check_known(vision=vision)
    match = _TRUNK.fullmatch(vision["timm_model_name"])
    pooling = (vision.get("timm_pool"), vision.get("timm_proj"))
    if match is None or match[1] not in _TRUNK_SIZES or pooling != ("map", "none"):
        raise ValueError(f"{vision['timm_model_name']} of timm is no SigLIP that is known here")
    return {
        "image_size": vision.get("image_size", int(match[3])),
        "patch_size": int(match[2]),
        "activation": _trunk_activation(match[1], int(match[2])),
        **_TRUNK_SIZES[match[1]],
    }


def _trunk_activation(size: str, patch_size: int) -> str:
    """The activation that timm gives to a SigLIP's image tower of this name."""
    is_tanh = size == "giantopt" or (size, patch_size) == ("so400m", 16)
    return "gelu_tanh" if is_tanh else "gelu"


def parse_preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    """How images are prepared. Raises as `parse_config`."""
    config = values.get("preprocess_cfg", {})
    size = config.get("size", values["model_cfg"]["vision_cfg"]["image_size"])
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    if height != width:
        raise ValueError(f"images of {height}x{width} are not square")
    mode = config.get("resize_mode", "shortest")
    if mode not in ("shortest", "squash"):
        raise ValueError(f"resize_mode {mode!r} has no counterpart")
    return Preprocessing(
        image_size=height,
        mean=tuple(config.get("mean", _MEAN)),
        std=tuple(config.get("std", _STD)),
        interpolation=config.get("interpolation", "bicubic"),
        crop=1.0,
        squash=mode == "squash",
    )


def make_config(model: ImageText, preprocessing: Preprocessing | None) -> dict[str, Any]:
    """The configuration that `open_clip.create_model("local-dir:FOLDER")` reads.

    Raises:
        ValueError: open_clip has no such model.
    """
    image, text = cast(ViT, model.image_encoder), model.text_encoder
    text_config: dict[str, Any] = {
        "context_length": text.max_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.depth,
        "mlp_ratio": text.mlp_dim / text.width,
    }
    config: dict[str, Any] = {"embed_dim": model.embed_dim, "text_cfg": text_config}
    if image_text.is_siglip(model):
        config |= {"init_logit_bias": -10, "custom_text": True}
        config["vision_cfg"] = {
            "image_size": image.image_size,
            "timm_model_name": _trunk(image),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        }
        text_config |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
        text_config["norm_kwargs"] = {"eps": text.norm_eps}
        if text.activation == "gelu_tanh":
            text_config["act_kwargs"] = {"approximate": "tanh"}
    else:
        if image.activation != text.activation or image.activation == "gelu_tanh":
            raise ValueError("both encoders must have the activation gelu or quick_gelu")
        if {image.norm_eps, text.norm_eps} != {1e-5}:
            raise ValueError("norm_eps must be 1e-5")
        config["quick_gelu"] = image.activation == "quick_gelu"
        config["vision_cfg"] = {
            "image_size": image.image_size,
            "layers": image.depth,
            "width": image.width,
            "head_width": image.width // image.heads,
            "patch_size": image.patch_size,
            "mlp_ratio": image.mlp_dim / image.width,
        }
    values: dict[str, Any] = {"model_cfg": config}
    if preprocessing is not None:
        values["preprocess_cfg"] = {
            "size": preprocessing.image_size,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": preprocessing.interpolation,
            "resize_mode": "squash" if preprocessing.squash else "shortest",
        }
    return values


def _trunk(image: ViT) -> str:
    """timm's name of a SigLIP's image encoder."""
    if image.norm_eps != 1e-6:
        raise ValueError("timm's SigLIP has norm_eps=1e-6")
    for name, fields in _TRUNK_SIZES.items():
        if all(getattr(image, field) == value for field, value in fields.items()):
            activation = _trunk_activation(name, image.patch_size)
            trunk = f"vit_{name}_patch{image.patch_size}_siglip_{image.image_size}"
            if image.activation != activation:
                raise ValueError(f"timm's {trunk} has the activation {activation}")
            return trunk
    raise ValueError("timm has no name for a SigLIP of this size")
