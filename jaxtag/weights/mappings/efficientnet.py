"""Parameter names of EfficientNet in torchvision, timm, transformers, efficientnet_pytorch."""

from collections.abc import Iterator
from itertools import pairwise

from jaxtag.models.efficientnet import EfficientNet
from jaxtag.models.mobile_blocks import make_divisible
from jaxtag.weights.mappings.mobile_blocks import conv_norm, excite, timm_block, torchvision_block
from jaxtag.weights.param_mapping import Table, head, join


def torchvision(model: EfficientNet) -> Table:
    """Maps `torchvision.models.efficientnet_b0` to `_b7`. Raises ValueError for a Lite."""
    _refuse_lite(model, "torchvision")
    last = f"features.{len(model.stages) + 1}"
    tables = [
        conv_norm("stem", "features.0.0", "features.0.1"),
        conv_norm("last", f"{last}.0", f"{last}.1"),
    ]
    for stage, index, expands in _blocks(model):
        target, source = f"stage{stage + 1}_{index}", f"features.{stage + 1}.{index}"
        tables.append(torchvision_block(target, source, expands, excites=True))
    return join([*tables, head(model.num_classes, "classifier.1")])


def timm(model: EfficientNet) -> Table:
    """Maps timm's `efficientnet_b0`, `tf_efficientnet_b0`, `tf_efficientnet_lite0` …."""
    tables = [conv_norm("stem", "conv_stem", "bn1"), conv_norm("last", "conv_head", "bn2")]
    for stage, index, expands in _blocks(model):
        target, source = f"stage{stage + 1}_{index}", f"blocks.{stage}.{index}"
        tables.append(timm_block(target, source, expands, excites=not model.lite))
    return join([*tables, head(model.num_classes, "classifier")])


def transformers(model: EfficientNet) -> Table:
    """Maps `transformers.EfficientNetForImageClassification`, at its configuration's image size.

    Raises:
        ValueError: the model is a Lite, or so narrow that transformers' computes another function.
    """
    _refuse_lite(model, "transformers")
    channels = [
        make_divisible(c * model.width) for c in (32, *(stage[3] for stage in model.stages))
    ]
    for stage, (before, after) in enumerate(pairwise(channels)):
        if before == after and model.stages[stage][2] == 1:
            raise ValueError(
                f"transformers has no residual in the first block of stage {stage + 1}: "
                f"width={model.width} gives it as many channels as come in, and so another function"
            )
    stem, body = "efficientnet.embeddings", "efficientnet.encoder"
    tables = [
        conv_norm("stem", f"{stem}.convolution", f"{stem}.batchnorm"),
        conv_norm("last", f"{body}.top_conv", f"{body}.top_bn"),
    ]
    names = {
        "expand": ("expansion.expand_conv", "expansion.expand_bn"),
        "depthwise": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
        "project": ("projection.project_conv", "projection.project_bn"),
    }
    for number, (stage, index, expands) in enumerate(_blocks(model)):
        target, source = f"stage{stage + 1}_{index}", f"{body}.blocks.{number}"
        for part, (convolution, norm) in names.items():
            if part != "expand" or expands:
                parts = (f"{source}.{convolution}", f"{source}.{norm}")
                tables.append(conv_norm(f"{target}/{part}", *parts))
        parts = (f"{source}.squeeze_excite.reduce", f"{source}.squeeze_excite.expand")
        tables.append(excite(f"{target}/squeeze_excite", *parts))
    return join([*tables, head(model.num_classes, "classifier")])


def efficientnet_pytorch(model: EfficientNet) -> Table:
    """Maps the package of this name, and TensorFlow's checkpoints that were converted with it."""
    tables = [conv_norm("stem", "_conv_stem", "_bn0"), conv_norm("last", "_conv_head", "_bn1")]
    names = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }
    for number, (stage, index, expands) in enumerate(_blocks(model)):
        target, source = f"stage{stage + 1}_{index}", f"_blocks.{number}"
        for part, (convolution, norm) in names.items():
            if part != "expand" or expands:
                parts = (f"{source}.{convolution}", f"{source}.{norm}")
                tables.append(conv_norm(f"{target}/{part}", *parts))
        if not model.lite:
            parts = (f"{source}._se_reduce", f"{source}._se_expand")
            tables.append(excite(f"{target}/squeeze_excite", *parts))
    return join([*tables, head(model.num_classes, "_fc")])


TABLES = {
    "torchvision": torchvision,
    "timm": timm,
    "transformers": transformers,
    "efficientnet_pytorch": efficientnet_pytorch,
}


def _refuse_lite(model: EfficientNet, library: str) -> None:
    if model.lite:
        raise ValueError(f"{library} has no EfficientNet-Lite")


def _blocks(model: EfficientNet) -> Iterator[tuple[int, int, bool]]:
    """Yields (stage, index in the stage, whether the block expands), in order."""
    for stage, (repeats, fields) in enumerate(zip(model.repeats(), model.stages, strict=True)):
        for index in range(repeats):
            yield stage, index, fields[0] != 1
