"""`config.json` of timm's models on the Hub, both ways: architecture, labels, preprocessing."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from jaxtag import models
from jaxtag.errors import UserError
from jaxtag.models.convnext import ConvNeXt
from jaxtag.models.efficientnet import STAGES, EfficientNet
from jaxtag.models.mobilenet import V1_STAGES, V2_STAGES, MobileNetV1, MobileNetV2
from jaxtag.models.mobilenet_v3 import LARGE, SMALL, MobileNetV3
from jaxtag.models.preprocessing import Preprocessing
from jaxtag.models.resnet import ResNet
from jaxtag.models.vit import ViT
from jaxtag.weights.preprocessing import warn_of_padding

_Named = tuple[str, dict[str, Any]]  # timm's architecture, its model_args
# Their arguments and our fields of the same meaning.
_ARGUMENTS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "heads",
    "layers": "depths",
    "class_token": "class_token",
    "no_embed_class": "no_embed_class",
    "reg_tokens": "registers",
    "init_values": "layer_scale",
    "fc_norm": "fc_norm",
    "act_layer": "activation",
    "depths": "depths",
    "dims": "widths",
    "use_grn": "grn",
    "ls_init_value": "layer_scale",
    "bn_eps": "norm_eps",
}
_POOLS = {"token": "cls", "avg": "gap", "map": "map"}
_TOWER = r"vit_[a-z0-9]+_patch\d+_(?:clip|clip_quickgelu|siglip)"  # of CLIP and SigLIP
_DISTILLED = r"deit_(?:tiny|small|base)_distilled_patch16"
_TF = {"padding": "same", "norm_eps": 1e-3}  # of models that were trained with TensorFlow
_TORCH = {"padding": None, "norm_eps": 1e-5}


def make_config(
    model: Any,
    channels: int,
    image_size: int | None,
    labels: Sequence[str] | None,
    preprocessing: Preprocessing | None,
) -> dict[str, Any] | None:
    """The configuration that `timm.create_model("local-dir:FOLDER")` reads.

    Args:
        model: a module with the fields of its class.
        channels: of the images.
        image_size: of the images, where there is no `preprocessing`.
        labels: names of the classes.
        preprocessing: of the images.

    Returns:
        None for a model that timm has no name for.
    """
    named = _ARCHITECTURES[type(model)](model) if type(model) in _ARCHITECTURES else None
    if named is None:
        return None
    architecture, arguments = named
    size = preprocessing.image_size if preprocessing else image_size or 224
    pretrained: dict[str, Any] = {
        "input_size": [channels, size, size],
        "num_classes": model.num_classes,
    }
    if preprocessing is not None:
        warn_of_padding(preprocessing, "timm")
        pretrained |= {
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop,
            "crop_mode": "squash" if preprocessing.squash else "center",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        }
    config = {"architecture": architecture, "num_classes": model.num_classes}
    if labels is not None:
        config["label_names"] = list(labels)
    if channels != 3:
        arguments = {**arguments, "in_chans": channels}
    return {**config, "model_args": arguments, "pretrained_cfg": pretrained}


def parse_config(values: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The model's name here and its fields, from timm's configuration.

    Raises:
        UserError: names `where`, and the architecture or argument that has no counterpart, or is of
            another kind than it should be.
    """
    try:
        return _parse_config(values, where)
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise UserError(f"{where} cannot be used: {str(error)[:300]}") from error


def parse_tower(values: Mapping[str, Any], where: str) -> ViT | None:
    """The image tower of CLIP or SigLIP that timm's configuration describes.

    Returns:
        None for the configuration of another model.

    Raises:
        UserError: as of `parse_config`.
    """
    architecture = str(values.get("architecture")).partition(".")[0]
    name = architecture.rpartition("_")[0]  # without the image size
    if not re.fullmatch(_TOWER, name) or name not in models.list_models():
        return None
    name, fields = parse_config(values, where)
    return cast(ViT, models.create_model(name, **fields))


def _parse_config(values: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    architecture = str(values.get("architecture")).partition(".")[0]
    pretrained = values.get("pretrained_cfg")
    pretrained = pretrained if isinstance(pretrained, dict) else {}
    parsed = _parse_architecture(architecture)
    if parsed is None or parsed[0] not in models.list_models():
        raise UserError(f"{where}: the architecture {architecture!r} of timm is none of jaxtag's")
    name, fields = parsed
    if "image_size" in models.field_names(name) and "input_size" in pretrained:
        fields["image_size"] = pretrained["input_size"][-1]
    arguments = dict(values.get("model_args") or {})
    if "global_pool" in values:
        arguments.setdefault("global_pool", values["global_pool"])
    for argument in ("num_classes", "in_chans", "drop_rate", "drop_path_rate"):
        arguments.pop(argument, None)
    if (pad_type := arguments.pop("pad_type", None)) is not None:
        fields["padding"] = pad_type or None
    pool = arguments.pop("global_pool", None)
    if pool in _POOLS and "pool" in models.field_names(name):
        fields["pool"] = _POOLS[pool]
        fields["fc_norm"] = pool == "avg"  # unless an argument says otherwise
    elif pool not in (None, "avg"):
        raise UserError(f"{where}: global_pool {pool!r} has no counterpart in {name}")
    ratio = arguments.pop("mlp_ratio", None)
    for argument, value in arguments.items():
        if value is None:  # their default
            continue
        field = _ARGUMENTS.get(argument)
        if field not in models.field_names(name):
            raise UserError(f"{where}: the argument {argument} has no counterpart in {name}")
        fields[field] = tuple(value) if isinstance(value, list) else value
    if ratio is not None or ("width" in fields and "mlp_dim" in models.field_names(name)):
        published: Any = models.create_model(name)
        is_gated = getattr(published, "activation", None) == "swiglu"  # its two parts are counted
        hidden = int(fields.get("width", getattr(published, "width", 0)) * (ratio or 4))
        fields["mlp_dim"] = hidden // 2 if is_gated else hidden
    return name, fields


def _parse_architecture(architecture: str) -> tuple[str, dict[str, Any]] | None:
    patterns: list[tuple[str, Callable[[re.Match[str]], tuple[str, dict[str, Any]]]]] = [
        (r"(resnet(?:18|34|50|101|152))", lambda m: (m[1], {})),
        (
            r"(tf_)?efficientnet_(b[0-7])",
            lambda m: (f"efficientnet_{m[2]}", dict(_TF if m[1] else _TORCH)),
        ),
        (r"tf_(efficientnet_lite[0-4])", lambda m: (m[1], {})),
        (
            r"mobilenetv([12])_(\d{3})",
            lambda m: (f"mobilenet_v{m[1]}", {"width": int(m[2]) / 100, **_TORCH}),
        ),
        (
            r"(tf_)?mobilenetv3_(large|small)_(\d{3})",
            lambda m: (
                f"mobilenet_v3_{m[2]}",
                {"width": int(m[3]) / 100, **(_TF if m[1] else _TORCH)},
            ),
        ),
        (r"(vit_[a-z]+_patch\d+)_\d+", lambda m: (m[1], {})),
        (rf"({_TOWER})_\d+", lambda m: (m[1], {})),
        (r"(convnext(?:v2)?_[a-z]+)", lambda m: (m[1], {})),
        (r"(vit_[a-z]+_patch14(?:_reg4)?_dinov2)", lambda m: (m[1], {})),
        (rf"({_DISTILLED})_\d+", lambda m: (m[1], {})),
        (r"deit_([a-z]+_patch\d+)_\d+", lambda m: (f"vit_{m[1]}", {})),
    ]
    for pattern, make in patterns:
        if match := re.fullmatch(pattern, architecture):
            return make(match)
    return None


def _resnet(model: ResNet) -> _Named | None:
    if model.small_images:
        return None
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        published: Any = models.create_model(name)
        if (published.depths, published.bottleneck) == (model.depths, model.bottleneck):
            return name, {}
    return "resnet50" if model.bottleneck else "resnet18", {"layers": list(model.depths)}


def _convnext(model: ConvNeXt) -> _Named | None:
    transformers_like = model.last_norm_eps != model.norm_eps or model.norm_eps != 1e-6
    if transformers_like or model.grn == (model.layer_scale is not None):
        return None
    arguments: dict[str, Any] = {"depths": list(model.depths), "dims": list(model.widths)}
    if model.layer_scale is not None:
        arguments["ls_init_value"] = model.layer_scale
    if model.activation != "gelu":
        arguments["act_layer"] = model.activation
    return "convnextv2_tiny" if model.grn else "convnext_tiny", arguments


def _vit(model: ViT) -> _Named | None:
    # The epsilon is a class in timm's arguments, which JSON cannot hold: the architecture has it.
    if model.norm_eps != (1e-5 if model.pre_norm else 1e-6) or model.pre_norm == model.patch_bias:
        return None
    activations = ["gelu", "gelu_tanh", "quick_gelu" if model.pre_norm else "swiglu"]
    if model.pool not in _POOLS.values() or model.activation not in activations:
        return None
    size = model.image_size
    arguments = {
        "img_size": size if isinstance(size, int) else list(size),
        "patch_size": model.patch_size,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": model.mlp_dim / model.width,
        "class_token": model.class_token,
        "global_pool": {ours: theirs for theirs, ours in _POOLS.items()}[model.pool],
        "fc_norm": model.fc_norm,
    }
    if model.activation == "gelu_tanh":
        arguments["act_layer"] = model.activation
    if model.layer_scale is not None:
        arguments["init_values"] = model.layer_scale
    if model.no_embed_class:
        arguments["no_embed_class"] = True
    if model.registers:
        arguments["reg_tokens"] = model.registers
    if model.activation == "swiglu":  # two classes in its arguments: the architecture has them
        arguments["mlp_ratio"] = 2 * model.mlp_dim / model.width
        return "vit_giant_patch14_dinov2", arguments
    if model.distilled:
        for name in ("global_pool", "class_token", "fc_norm"):  # which its class has not
            del arguments[name]
        return "deit_base_distilled_patch16_224", arguments
    if model.pre_norm:
        quick = "_quickgelu" if model.activation == "quick_gelu" else ""
        return f"vit_base_patch16_clip{quick}_224", arguments
    return f"vit_base_patch16{'_siglip' if model.pool == 'map' else ''}_224", arguments


def _mobile_arguments(model: Any) -> dict[str, Any]:
    arguments = {} if model.padding is None else {"pad_type": model.padding}
    return arguments | ({} if model.norm_eps == 1e-5 else {"bn_eps": model.norm_eps})


def _efficientnet(model: EfficientNet) -> _Named | None:
    names = [f"efficientnet_lite{size}" for size in range(5)]
    names += [f"efficientnet_b{size}" for size in range(8)]
    for name in names:
        published: Any = models.create_model(name)
        scales = (model.lite, model.width, model.depth)
        if (published.lite, published.width, published.depth) == scales:
            named = (f"tf_{name}", {}) if model.lite else (name, _mobile_arguments(model))
            is_published = model.stages == STAGES and (
                not model.lite or (model.padding, model.norm_eps) == tuple(_TF.values())
            )
            return named if is_published else None
    return None


def _mobilenet(model: MobileNetV1 | MobileNetV2) -> _Named | None:
    version, stages = (1, V1_STAGES) if isinstance(model, MobileNetV1) else (2, V2_STAGES)
    if model.stages != stages:
        return None
    return f"mobilenetv{version}_{_percent(model)}", _mobile_arguments(model)


def _mobilenet_v3(model: MobileNetV3) -> _Named | None:
    sizes = {(LARGE, 1280): "large", (SMALL, 1024): "small"}
    size = sizes.get((model.blocks, model.hidden))
    return (f"mobilenetv3_{size}_{_percent(model)}", _mobile_arguments(model)) if size else None


def _percent(model: Any) -> str:
    return f"{round(100 * model.width):03}"


_ARCHITECTURES: dict[type, Callable[[Any], _Named | None]] = {
    ConvNeXt: _convnext,
    EfficientNet: _efficientnet,
    MobileNetV1: _mobilenet,
    MobileNetV2: _mobilenet,
    MobileNetV3: _mobilenet_v3,
    ResNet: _resnet,
    ViT: _vit,
}
