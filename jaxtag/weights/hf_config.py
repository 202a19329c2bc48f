"""`config.json` of transformers for models of jaxtag."""

from collections.abc import Callable
from typing import Any

from jaxtag.models.efficientnet import EfficientNet
from jaxtag.models.mobile_blocks import make_divisible
from jaxtag.models.mobilenet import V1_STAGES, V2_STAGES, MobileNetV1, MobileNetV2
from jaxtag.models.resnet import WIDTHS, ResNet
from jaxtag.models.vit import ViT


def make_config(model: Any, channels: int, image_size: int | None) -> dict[str, Any]:
    """The configuration of `transformers` for `model`, as `from_pretrained` reads it.

    Args:
        model: a module with the fields of its class.
        channels: of the images.
        image_size: of the images; transformers' EfficientNet is exact for one size only.

    Raises:
        ValueError: transformers has no such model, or the size is needed and not given.
    """
    kind = type(model).__name__
    if kind not in _CONFIGS:
        raise ValueError(f"no configuration is known for {kind}; there are: {', '.join(_CONFIGS)}")
    config = _CONFIGS[kind](model, image_size)
    suffix = "ForImageClassification" if model.num_classes else "Model"
    labels = {f"LABEL_{i}": i for i in range(model.num_classes)}
    return {
        "architectures": [f"{kind}{suffix}"],
        "dtype": "float32",
        "num_channels": channels,
        "id2label": {str(i): label for label, i in labels.items()},
        "label2id": labels,
        **config,
    }


def _resnet(model: ResNet, _: int | None) -> dict[str, Any]:
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


def _vit(model: ViT, _: int | None) -> dict[str, Any]:
    size = model.image_size
    return {
        "model_type": "vit",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": model.mlp_dim,
        "hidden_act": "gelu",
        "image_size": size if isinstance(size, int) else list(size),
        "patch_size": model.patch_size,
        "layer_norm_eps": model.norm_eps,
        "qkv_bias": True,
    }


def _efficientnet(model: EfficientNet, image_size: int | None) -> dict[str, Any]:
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


_CONFIGS: dict[str, Callable[[Any, int | None], dict[str, Any]]] = {
    "EfficientNet": _efficientnet,
    "MobileNetV1": _mobilenet,
    "MobileNetV2": _mobilenet,
    "ResNet": _resnet,
    "ViT": _vit,
}
