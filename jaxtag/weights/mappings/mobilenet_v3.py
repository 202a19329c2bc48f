"""Parameter names of MobileNet V3 in torchvision and timm."""

from collections.abc import Iterator
from itertools import groupby

from jaxtag.models.mobile_blocks import make_divisible
from jaxtag.models.mobilenet_v3 import MobileNetV3
from jaxtag.weights.mappings.mobile_blocks import conv_norm, timm_block, torchvision_block
from jaxtag.weights.param_mapping import Table, head, join, linear


def torchvision(model: MobileNetV3) -> Table:
    """Maps `torchvision.models.mobilenet_v3_large` and `mobilenet_v3_small`."""
    tables = [conv_norm("stem", "features.0.0", "features.0.1")]
    for number, (expands, excites) in enumerate(_blocks(model)):
        source = f"features.{number + 1}"
        tables.append(torchvision_block(f"block{number}", source, expands, excites))
    source = f"features.{len(model.blocks) + 1}"
    tables.append(conv_norm("last", f"{source}.0", f"{source}.1"))
    tables.append(linear("hidden", "classifier.0"))
    return join([*tables, head(model.num_classes, "classifier.3")])


def timm(model: MobileNetV3) -> Table:
    """Maps timm's `mobilenetv3_large_100`, `mobilenetv3_small_100`, `tf_` models and other widths.

    Consecutive blocks of equal channels form a stage; the hidden layer is a 1x1 convolution.
    """
    tables = [conv_norm("stem", "conv_stem", "bn1")]
    stages = [list(stage) for _, stage in groupby(model.blocks, key=lambda block: block[2])]
    names = [f"blocks.{s}.{i}" for s, stage in enumerate(stages) for i in range(len(stage))]
    for number, (source, parts) in enumerate(zip(names, _blocks(model), strict=True)):
        tables.append(timm_block(f"block{number}", source, *parts))
    last = f"blocks.{len(stages)}.0"
    tables.append(conv_norm("last", f"{last}.conv", f"{last}.bn1"))
    hidden: Table = {
        "params/hidden/kernel": ("pointwise", "conv_head.weight"),
        "params/hidden/bias": ("", "conv_head.bias"),
    }
    return join([*tables, hidden, head(model.num_classes, "classifier")])


TABLES = {"torchvision": torchvision, "timm": timm}


def _blocks(model: MobileNetV3) -> Iterator[tuple[bool, bool]]:
    """Yields (whether it expands, whether it has a squeeze-and-excite) of each block."""
    channels = make_divisible(16 * model.width)
    for _, expanded, out, excites, _, _ in model.blocks:
        yield make_divisible(expanded * model.width) != channels, excites
        channels = make_divisible(out * model.width)
