"""Parameter names of ResNet in torchvision and timm (the same names), and transformers."""

from collections.abc import Iterator

from jaxtag.models.resnet import ResNet
from jaxtag.weights.param_mapping import Table, batch_norm, conv, head, join


def torchvision(model: ResNet) -> Table:
    """Maps `torchvision.models.resnet50` and other depths; timm's have the same names."""
    tables = [conv("stem", "conv1"), batch_norm("stem_norm", "bn1")]
    for target, source, convolutions, shortcut in _blocks(model, "layer{}.{}", first=1):
        for n in range(1, convolutions + 1):
            tables += [conv(f"{target}/conv{n}", f"{source}.conv{n}")]
            tables += [batch_norm(f"{target}/norm{n}", f"{source}.bn{n}")]
        if shortcut:
            tables += [conv(f"{target}/shortcut", f"{source}.downsample.0")]
            tables += [batch_norm(f"{target}/shortcut_norm", f"{source}.downsample.1")]
    return join([*tables, head(model.num_classes, "fc")])


def transformers(model: ResNet) -> Table:
    """Maps `transformers.ResNetForImageClassification`."""
    stem = "resnet.embedder.embedder"
    tables = [conv("stem", f"{stem}.convolution"), batch_norm("stem_norm", f"{stem}.normalization")]
    layer = "resnet.encoder.stages.{}.layers.{}"
    for target, source, convolutions, shortcut in _blocks(model, layer, first=0):
        parts = [(f"layer.{n}", f"conv{n + 1}", f"norm{n + 1}") for n in range(convolutions)]
        if shortcut:
            parts.append(("shortcut", "shortcut", "shortcut_norm"))
        for part, convolution, norm in parts:
            tables += [conv(f"{target}/{convolution}", f"{source}.{part}.convolution")]
            tables += [batch_norm(f"{target}/{norm}", f"{source}.{part}.normalization")]
    return join([*tables, head(model.num_classes, "classifier.1")])


TABLES = {"torchvision": torchvision, "timm": torchvision, "transformers": transformers}


def _blocks(model: ResNet, source: str, first: int) -> Iterator[tuple[str, str, int, bool]]:
    """Yields (target block, source block, convolutions, whether its shortcut has one), in order.

    Args:
        source: name of a source block, with `{}` for the stage (from `first`) and the index.
    """
    for stage, depth in enumerate(model.depths):
        for index in range(depth):
            shortcut = index == 0 and (stage > 0 or model.bottleneck)
            convolutions = 3 if model.bottleneck else 2
            target = f"stage{stage + 1}_{index}"
            yield target, source.format(stage + first, index), convolutions, shortcut
