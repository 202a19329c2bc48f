"""ResNet in the files of torchvision and timm (the same names), and of transformers."""

from jaxtag.models.resnet import ResNet
from jaxtag.weights.param_mapping import Table, batch_norm, conv, join, linear


def torchvision(model: ResNet) -> Table:
    """`torchvision.models.resnet50` and its like; timm's."""
    tables = [conv("stem", "conv1"), batch_norm("stem_norm", "bn1")]
    for ours, theirs, convolutions, shortcut in _blocks(model, "layer{}.{}", first=1):
        for n in range(1, convolutions + 1):
            tables += [conv(f"{ours}/conv{n}", f"{theirs}.conv{n}")]
            tables += [batch_norm(f"{ours}/norm{n}", f"{theirs}.bn{n}")]
        if shortcut:
            tables += [conv(f"{ours}/shortcut", f"{theirs}.downsample.0")]
            tables += [batch_norm(f"{ours}/shortcut_norm", f"{theirs}.downsample.1")]
    return join(tables + _head(model, "fc"))


def transformers(model: ResNet) -> Table:
    """`transformers.ResNetForImageClassification`."""
    stem = "resnet.embedder.embedder"
    tables = [conv("stem", f"{stem}.convolution"), batch_norm("stem_norm", f"{stem}.normalization")]
    layer = "resnet.encoder.stages.{}.layers.{}"
    for ours, theirs, convolutions, shortcut in _blocks(model, layer, first=0):
        parts = [(f"layer.{n}", f"conv{n + 1}", f"norm{n + 1}") for n in range(convolutions)]
        if shortcut:
            parts.append(("shortcut", "shortcut", "shortcut_norm"))
        for part, convolution, norm in parts:
            tables += [conv(f"{ours}/{convolution}", f"{theirs}.{part}.convolution")]
            tables += [batch_norm(f"{ours}/{norm}", f"{theirs}.{part}.normalization")]
    return join(tables + _head(model, "classifier.1"))


TABLES = {"torchvision": torchvision, "timm": torchvision, "transformers": transformers}


def _blocks(model: ResNet, theirs: str, first: int):
    """(our block, theirs, its convolutions, whether its shortcut has one), in order."""
    for stage, depth in enumerate(model.depths):
        for index in range(depth):
            shortcut = index == 0 and (stage > 0 or model.bottleneck)
            convolutions = 3 if model.bottleneck else 2
            ours = f"stage{stage + 1}_{index}"
            yield ours, theirs.format(stage + first, index), convolutions, shortcut


def _head(model: ResNet, theirs: str) -> list[Table]:
    return [linear("head", theirs)] if model.num_classes else []
