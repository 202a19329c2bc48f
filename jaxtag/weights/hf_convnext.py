"""`config.json` of transformers for ConvNeXt and ConvNeXt V2, both ways."""

from collections.abc import Mapping
from typing import Any

from jaxtag.models.convnext import ConvNeXt
from jaxtag.weights.mappings.convnext import transformers_kind

MODEL_TYPES = ("convnext", "convnextv2")
_CLASSES = {"convnext": "ConvNext", "convnextv2": "ConvNextV2"}


def make_config(model: ConvNeXt, _: int | None) -> dict[str, Any]:
    """The configuration for `model`. Raises ValueError where transformers has no such model."""
    kind = transformers_kind(model)
    if model.activation != "gelu" or model.norm_eps != 1e-6:
        raise ValueError('its ConvNeXt has activation="gelu" and norm_eps=1e-6')
    suffix = "ForImageClassification" if model.num_classes else "Model"
    config = {
        "model_type": kind,
        "architectures": [f"{_CLASSES[kind]}{suffix}"],
        "num_stages": len(model.depths),
        "depths": list(model.depths),
        "hidden_sizes": list(model.widths),
        "patch_size": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": model.last_norm_eps,
        "drop_path_rate": model.drop_path,
    }
    return config | ({} if model.grn else {"layer_scale_init_value": model.layer_scale})


def parse_config(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model's name here and its fields. Raises ValueError for what has no counterpart."""
    if values.get("patch_size", 4) != 4:
        raise ValueError("only a patch_size of 4 has a counterpart")
    fields = {
        "depths": tuple(values.get("depths") or (3, 3, 9, 3)),
        "widths": tuple(values.get("hidden_sizes") or (96, 192, 384, 768)),
        "last_norm_eps": values.get("layer_norm_eps", 1e-12),
    }
    if values["model_type"] == "convnextv2":
        return "convnextv2_tiny", fields
    scale = values.get("layer_scale_init_value", 1e-6)
    if not scale > 0:
        raise ValueError("layer_scale_init_value must be above 0")
    return "convnext_tiny", fields | {"layer_scale": scale}
