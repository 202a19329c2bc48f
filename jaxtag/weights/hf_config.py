"""`config.json` of transformers for models of jaxtag."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtag.errors import UserError
from jaxtag.models.efficientnet import EfficientNet
from jaxtag.models.image_text import ImageText
from jaxtag.models.mobile_blocks import make_divisible
from jaxtag.models.mobilenet import V1_STAGES, V2_STAGES, MobileNetV1, MobileNetV2
from jaxtag.models.resnet import WIDTHS, ResNet
from jaxtag.weights import (
    hf_convnext,
    hf_image_text,
    hf_vit,
    image_text_files,
    image_towers,
    safetensors_io,
)
from jaxtag.weights.mappings.image_text import is_tower
from jaxtag.weights.safetensors_io import folder_of


def make_config(
    model: Any,
    channels: int,
    image_size: int | None,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
) -> dict[str, Any]:
    """The configuration of `transformers` for `model`, as `from_pretrained` reads it.

    Args:
        model: a module with the fields of its class.
        channels: of the images.
        image_size: of the images; transformers' EfficientNet is exact for one size only.
        labels: names of the classes; without them LABEL_0 …, as transformers has it.
        multi_label: an image has any number of the labels.

    Raises:
        ValueError: transformers has no such model, or the size is needed and not given.
    """
    if isinstance(model, ImageText):
        return hf_image_text.make_config(model)
    kind = type(model).__name__
    if kind not in _CONFIGS:
        raise ValueError(f"no configuration is known for {kind}; there are: {', '.join(_CONFIGS)}")
    config = _CONFIGS[kind](model, image_size)
    suffix = "ForImageClassification" if model.num_classes else "Model"
    labels = labels or [f"LABEL_{i}" for i in range(model.num_classes)]
    config = {
        "architectures": [f"{kind}{suffix}"],
        "dtype": "float32",
        "num_channels": channels,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        **config,
    }
    if multi_label:
        config["problem_type"] = "multi_label_classification"
    return config


def classifiers() -> list[str]:
    """The values of `model_type` that `parse_config` takes."""
    return list(_PARSERS)


def parse_config(values: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The model's name here and its fields, from the config.json of a classifier.

    Raises:
        UserError: names `where`, and the setting that has no counterpart.
    """
    parse = _PARSERS.get(str(values.get("model_type")))
    if parse is None:
        raise UserError(
            f"{where} is of no classifier that is known here (model_type "
            f"{values.get('model_type')!r}; there are: {', '.join(_PARSERS)}, or timm's "
            "architecture)"
        )
    try:
        return parse(values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{where} cannot be used: {reason}") from error


def check_function(path: Path, model: Any, library: str) -> list[str]:
    """Compares a model with the config.json beside weights, in what no shape of a tensor shows.

    Another epsilon changes the outputs in their fourth digit: a line on stderr says so. What
    changes them altogether (the heads of a ViT, an activation) is returned, as problems.

    Args:
        path: of the weights, a file or a folder.
        library: whose names they have.
    """
    if isinstance(model, ImageText):
        return [] if library == "jaxtag" else image_text_files.compare(folder_of(path), model)
    if is_tower(model) and library != "jaxtag":
        described = image_towers.read(folder_of(path))
        if described is not None:
            image_towers.check(path, described, model)
        return []
    values = safetensors_io.read_json(folder_of(path) / "config.json")
    kind = type(model).__name__
    if kind == "Captioner":
        values, model, kind = values.get("encoder", {}), model.encoder, "ViT"
    if not isinstance(values, dict):
        return []
    if library == "timm":
        return _warn_of_epsilon(path, model, _timm_epsilon(values), "architecture")
    model_type = str(values.get("model_type"))
    if library != "transformers" or _CLASSES.get(model_type) != kind:
        return []
    problems = []
    for key, (default, field, of_field) in _FUNCTIONS[model_type].items():
        theirs, ours = values.get(key, default), of_field(getattr(model, field, None))
        if key.endswith("_eps"):
            _warn_of_epsilon(path, model, theirs, key)
        elif theirs != ours:
            what = f"the model's {field}" if hasattr(model, field) else "the model"
            problems.append(f"config.json has {key} {theirs!r}, {what} is that of {ours!r}")
    return problems


def epsilon(values: Mapping[str, Any]) -> float | None:
    """The epsilon of the norms by a config.json of transformers or timm; None if it has none."""
    settings = _FUNCTIONS.get(str(values.get("model_type")))
    if settings is None:
        return _timm_epsilon(values)
    for key, (default, *_) in settings.items():
        if key.endswith("_eps"):
            return values.get(key, default)
    return None


def _timm_epsilon(values: Mapping[str, Any]) -> float | None:
    """timm's models that were trained with TensorFlow have `tf_` before their names."""
    return 1e-3 if str(values.get("architecture")).startswith("tf_") else None


def _warn_of_epsilon(path: Path, model: Any, theirs: Any, key: str) -> list[str]:
    """Says on stderr that the weights' epsilon is another than the model's."""
    ours = getattr(model, "norm_eps", None)
    if ours is None or theirs is None or theirs == ours:
        return []
    print(
        f"warning: {path} was trained with an epsilon of {theirs} (config.json: {key}), and this "
        f"{type(model).__name__} has norm_eps={ours}: its outputs differ slightly; make the model "
        f"with norm_eps={theirs}",
        file=sys.stderr,
    )
    return []


def _resnet(model: ResNet, _: int | None) -> dict[str, Any]:
    if model.small_images:
        raise ValueError("its ResNets have no stem for small images")
    return {
        "model_type": "resnet",
        "depths": list(model.depths),
        "embedding_size": 64,
        "hidden_sizes": [width * (4 if model.bottleneck else 1) for width in WIDTHS],
        "layer_type": "bottleneck" if model.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_bottleneck": False,
        "downsample_in_first_stage": False,
    }


def _efficientnet(model: EfficientNet, image_size: int | None) -> dict[str, Any]:
    if model.lite:
        raise ValueError("it has no EfficientNet-Lite")
    if image_size is None:
        raise ValueError("its EfficientNet is made for one image size: say image_size")
    if image_size % 2:
        raise ValueError(f"its EfficientNet pads images of an odd size ({image_size}) differently")
    if model.padding != "same":
        raise ValueError('its EfficientNet pads as TensorFlow: the model needs padding="same"')
    expansions, kernels, strides, outputs, repeats = map(list, zip(*model.stages, strict=True))
    return {
        "model_type": "efficientnet",
        "width_coefficient": model.width,
        "depth_coefficient": model.depth,
        "depth_divisor": 8,
        "kernel_sizes": kernels,
        "in_channels": [32, *outputs[:-1]],
        "out_channels": outputs,
        "image_size": image_size,
        "depthwise_padding": _evenly_padded(model, image_size),
        "strides": strides,
        "num_block_repeats": repeats,
        "expand_ratios": expansions,
        "squeeze_expansion_ratio": 0.25,
        "hidden_act": "swish",
        "hidden_dim": make_divisible(1280 * model.width),
        "pooling_type": "mean",
        "batch_norm_eps": model.norm_eps,
        "batch_norm_momentum": model.norm_momentum,
        "dropout_rate": model.dropout,
        "drop_connect_rate": model.drop_path,
    }


def _evenly_padded(model: EfficientNet, image_size: int) -> list[int]:
    """The blocks with a stride that take an odd number of pixels.

    There "same" pads both sides equally; transformers pads unevenly except in the blocks that
    `depthwise_padding` lists.
    """
    size, block = -(-image_size // 2), 0  # after the stem
    odd: list[int] = []
    for repeats, (_, _, stride, _, _) in zip(model.repeats(), model.stages, strict=True):
        if stride == 2:
            odd += [block] if size % 2 else []
            size = -(-size // 2)
        block += repeats
    return odd


def _mobilenet(model: MobileNetV1 | MobileNetV2, _: int | None) -> dict[str, Any]:
    is_v1 = isinstance(model, MobileNetV1)
    if model.stages != (V1_STAGES if is_v1 else V2_STAGES):
        raise ValueError("its MobileNets have the stages of the papers only")
    config = {
        "model_type": "mobilenet_v1" if is_v1 else "mobilenet_v2",
        "depth_multiplier": model.width,
        "min_depth": 8,
        "hidden_act": "relu6",
        "tf_padding": model.padding == "same",
        "classifier_dropout_prob": model.dropout,
        "layer_norm_eps": model.norm_eps,
    }
    v2_fields = {"depth_divisible_by": 8, "expand_ratio": 6, "finegrained_output": True}
    return config if is_v1 else config | v2_fields


def _parse_resnet(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    bottleneck = values.get("layer_type", "bottleneck") == "bottleneck"
    widths = [width * (4 if bottleneck else 1) for width in WIDTHS]
    if values.get("embedding_size", 64) != 64 or values.get("hidden_sizes", widths) != widths:
        raise ValueError("only the widths of the published ResNets have a counterpart")
    depths = tuple(values.get("depths", (3, 4, 6, 3)))
    return "resnet50" if bottleneck else "resnet18", {"depths": depths}


def _parse_efficientnet(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return "efficientnet_b0", {
        "width": values.get("width_coefficient", 2.0),
        "depth": values.get("depth_coefficient", 3.1),
        "dropout": values.get("dropout_rate", 0.5),
        "padding": "same",
        "norm_eps": values.get("batch_norm_eps", 1e-3),
    }


def _parse_mobilenet(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return values["model_type"], {
        "width": values.get("depth_multiplier", 1.0),
        "padding": "same" if values.get("tf_padding", True) else None,
        "norm_eps": values.get("layer_norm_eps", 1e-3),
    }


_PARSERS: dict[str, Callable[[Mapping[str, Any]], tuple[str, dict[str, Any]]]] = {
    "efficientnet": _parse_efficientnet,
    "mobilenet_v1": _parse_mobilenet,
    "mobilenet_v2": _parse_mobilenet,
    "resnet": _parse_resnet,
    **dict.fromkeys(hf_convnext.MODEL_TYPES, hf_convnext.parse_config),
    **dict.fromkeys(hf_vit.MODEL_TYPES, hf_vit.parse_config),
}
# Model type -> the class here.
_CLASSES = {
    "efficientnet": "EfficientNet",
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "resnet": "ResNet",
    **dict.fromkeys(hf_convnext.MODEL_TYPES, "ConvNeXt"),
    **dict.fromkeys(hf_vit.MODEL_TYPES, "ViT"),
}


def _same(value: Any) -> Any:
    return value


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


# Settings that no tensor's shape shows: model type -> key -> (transformers' default, our field, its
# value as they write it).
_Setting = tuple[Any, str, Callable[[Any], Any]]
_MOBILENET: dict[str, _Setting] = {
    "layer_norm_eps": (1e-3, "norm_eps", _same),
    "tf_padding": (True, "padding", lambda padding: padding == "same"),
    "hidden_act": ("relu6", "activation", _constant("relu6")),
}
_VIT: dict[str, _Setting] = {
    "layer_norm_eps": (1e-12, "norm_eps", _same),
    "num_attention_heads": (12, "heads", _same),
    "hidden_act": ("gelu", "activation", hf_vit.activation),
}
_DINOV2: dict[str, _Setting] = {
    "layer_norm_eps": (1e-6, "norm_eps", _same),
    "num_attention_heads": (12, "heads", _same),
    "use_swiglu_ffn": (False, "activation", lambda activation: activation == "swiglu"),
}
_CONVNEXT: dict[str, _Setting] = {"hidden_act": ("gelu", "activation", _same)}
_FUNCTIONS: dict[str, dict[str, _Setting]] = {
    **dict.fromkeys(hf_convnext.MODEL_TYPES, _CONVNEXT),
    "efficientnet": {
        "batch_norm_eps": (1e-3, "norm_eps", _same),
        "hidden_act": ("swish", "activation", _constant("swish")),
    },
    "mobilenet_v1": _MOBILENET,
    "mobilenet_v2": _MOBILENET,
    "resnet": {
        "downsample_in_first_stage": (False, "", _constant(False)),
        "downsample_in_bottleneck": (False, "", _constant(False)),
        "hidden_act": ("relu", "activation", _constant("relu")),
    },
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
}
_CONFIGS: dict[str, Callable[[Any, int | None], dict[str, Any]]] = {
    "ConvNeXt": hf_convnext.make_config,
    "EfficientNet": _efficientnet,
    "MobileNetV1": _mobilenet,
    "MobileNetV2": _mobilenet,
    "ResNet": _resnet,
    "ViT": hf_vit.make_config,
}
