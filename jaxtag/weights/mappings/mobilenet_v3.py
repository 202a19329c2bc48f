"""MobileNet V3 in the files of torchvision and timm."""

from collections.abc import Iterator
from itertools import groupby

from jaxtag.models.mobile_blocks import make_divisible
from jaxtag.models.mobilenet_v3 import MobileNetV3
from jaxtag.weights.mappings.mobile_blocks import conv_norm, timm_block, torchvision_block
from jaxtag.weights.param_mapping import Table, join, linear


def torchvision(model: MobileNetV3) -> Table:
    """`torchvision.models.mobilenet_v3_large` and `mobilenet_v3_small`."""
    tables = [conv_norm("stem", "features.0.0", "features.0.1")]
    for number, (expands, excites) in enumerate(_blocks(model)):
        theirs = f"features.{number + 1}"
        tables.append(torchvision_block(f"block{number}", theirs, expands, excites))
    theirs = f"features.{len(model.blocks) + 1}"
    tables.append(conv_norm("last", f"{theirs}.0", f"{theirs}.1"))
    tables.append(linear("hidden", "classifier.0"))
    return join(tables + _head(model, "classifier.3"))


def timm(model: MobileNetV3) -> Table:
    """timm's `mobilenetv3_large_100`, `mobilenetv3_small_100`, `tf_` models and their like.

    Blocks of as many channels are one of its stages; the hidden layer is a 1x1 convolution.
    """
    tables = [conv_norm("stem", "conv_stem", "bn1")]
    stages = [list(stage) for _, stage in groupby(model.blocks, key=lambda block: block[2])]
    places = [f"blocks.{s}.{i}" for s, stage in enumerate(stages) for i in range(len(stage))]
    for number, (theirs, parts) in enumerate(zip(places, _blocks(model), strict=True)):
        tables.append(timm_block(f"block{number}", theirs, *parts))
    last = f"blocks.{len(stages)}.0"
    tables.append(conv_norm("last", f"{last}.conv", f"{last}.bn1"))
    hidden: Table = {
        "params/hidden/kernel": ("pointwise", "conv_head.weight"),
        "params/hidden/bias": ("", "conv_head.bias"),
    }
    return join([*tables, hidden, *_head(model, "classifier")])


TABLES = {"torchvision": torchvision, "timm": timm}


def _blocks(model: MobileNetV3) -> Iterator[tuple[bool, bool]]:
    """(whether it expands, whether it has a squeeze-and-excite) of each block."""
    channels = make_divisible(16 * model.width)
    for _, expanded, out, excites, _, _ in model.blocks:
        yield make_divisible(expanded * model.width) != channels, excites
        channels = make_divisible(out * model.width)


def _head(model: MobileNetV3, theirs: str) -> list[Table]:
    return [linear("head", theirs)] if model.num_classes else []
