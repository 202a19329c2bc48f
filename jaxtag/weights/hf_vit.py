"""`config.json` of transformers for ViT, DeiT, DINOv2 and DINOv2 with registers, both ways."""

from collections.abc import Mapping
from typing import Any

from jaxtag.models.vit import ViT
from jaxtag.weights.hf_image_text import ACTIVATIONS
from jaxtag.weights.mappings.vit import transformers_kind

MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
_ARCHITECTURES = {
    "vit": ("ViTModel", "ViTForImageClassification"),
    "deit": ("DeiTModel", "DeiTForImageClassificationWithTeacher"),
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification"),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersForImageClassification",
    ),
}
_MLP_RATIO = 4  # of DINOv2


def make_config(model: ViT, _: int | None) -> dict[str, Any]:
    """The configuration for `model`. Raises ValueError where transformers has no such model."""
    kind = transformers_kind(model)
    size = model.image_size
    config = {
        "model_type": kind,
        "architectures": [_ARCHITECTURES[kind][bool(model.num_classes)]],
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "hidden_act": activation(model.activation),
        "image_size": size if isinstance(size, int) else list(size),
        "patch_size": model.patch_size,
        "layer_norm_eps": model.norm_eps,
        "qkv_bias": True,
    }
    if not kind.startswith("dinov2"):
        return config | {"intermediate_size": model.mlp_dim}
    is_gated = model.activation == "swiglu"
    if is_gated and model.mlp_dim != _gated_width(model.width, _MLP_RATIO):
        raise ValueError(
            f"its gated feed-forward has {_gated_width(model.width, _MLP_RATIO)} units"
        )
    if not is_gated and model.mlp_dim % model.width:
        raise ValueError("its DINOv2 has an mlp_dim that is a multiple of the width")
    config |= {
        "mlp_ratio": _MLP_RATIO if is_gated else model.mlp_dim // model.width,
        "layerscale_value": model.layer_scale,
        "use_swiglu_ffn": is_gated,
        "drop_path_rate": model.drop_path,
    }
    return config | ({"num_register_tokens": model.registers} if model.registers else {})


def activation(name: str) -> str:
    """transformers' `hidden_act` for an activation here; SwiGLU has a setting of its own."""
    return {ours: theirs for theirs, ours in ACTIVATIONS.items()}.get(name, "gelu")


def parse_config(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model's name here and its fields. Raises ValueError for what has no counterpart."""
    kind = values["model_type"]
    if not values.get("qkv_bias", True):
        raise ValueError("qkv_bias must be true")
    hidden_act = values.get("hidden_act", "gelu")
    if hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act must be one of {', '.join(ACTIVATIONS)}, not {hidden_act!r}")
    size = values.get("image_size", 224)
    width = values.get("hidden_size", 768)
    fields = {
        "image_size": tuple(size) if isinstance(size, list) else size,
        "patch_size": values.get("patch_size", 14 if kind == "dinov2" else 16),
        "width": width,
        "depth": values.get("num_hidden_layers", 12),
        "heads": values.get("num_attention_heads", 12),
        "activation": ACTIVATIONS[hidden_act],
    }
    if not kind.startswith("dinov2"):
        fields |= {"mlp_dim": values.get("intermediate_size", 3072), "distilled": kind == "deit"}
        return "vit_base_patch16", fields | {"norm_eps": values.get("layer_norm_eps", 1e-12)}
    is_gated = bool(values.get("use_swiglu_ffn", False))
    ratio = values.get("mlp_ratio", _MLP_RATIO)
    return "vit_base_patch14_dinov2", fields | {
        "mlp_dim": _gated_width(width, ratio) if is_gated else int(width * ratio),
        "norm_eps": values.get("layer_norm_eps", 1e-6),
        "activation": "swiglu" if is_gated else fields["activation"],
        "layer_scale": values.get("layerscale_value", 1.0),
        "registers": values.get("num_register_tokens", 4) if kind.endswith("registers") else 0,
        "pool": "cls_gap",
    }


def _gated_width(width: int, ratio: float) -> int:
    """The hidden units of DINOv2's SwiGLU: two thirds of those of an MLP, in whole eights."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8
