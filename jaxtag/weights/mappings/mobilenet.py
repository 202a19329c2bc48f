"""Parameter names of MobileNet V1 in timm and transformers, and of V2 also in torchvision."""

from collections.abc import Iterator

from jaxtag.models.mobile_blocks import make_divisible
from jaxtag.models.mobilenet import MobileNetV1, MobileNetV2
from jaxtag.weights.mappings.mobile_blocks import conv_norm, timm_block
from jaxtag.weights.param_mapping import Table, head, join


def torchvision(model: MobileNetV1 | MobileNetV2) -> Table:
    """Maps `torchvision.models.mobilenet_v2`. Raises ValueError for V1, which it lacks."""
    if isinstance(model, MobileNetV1):
        raise ValueError('torchvision has no MobileNet V1; name its files "timm" or "transformers"')
    tables = [conv_norm("stem", "features.0.0", "features.0.1")]
    blocks = list(_blocks(model))
    for number, (target, _, expands) in enumerate(blocks, start=1):
        source = f"features.{number}.conv"
        parts = ["expand", "depthwise"] if expands else ["depthwise"]
        for n, part in enumerate(parts):
            tables.append(conv_norm(f"{target}/{part}", f"{source}.{n}.0", f"{source}.{n}.1"))
        last = (f"{source}.{len(parts)}", f"{source}.{len(parts) + 1}")
        tables.append(conv_norm(f"{target}/project", *last))
    source = f"features.{len(blocks) + 1}"
    tables.append(conv_norm("last", f"{source}.0", f"{source}.1"))
    return join([*tables, head(model.num_classes, "classifier.1")])


def timm(model: MobileNetV1 | MobileNetV2) -> Table:
    """Maps timm's `mobilenetv1_100`, `mobilenetv2_100` and other widths."""
    tables = [conv_norm("stem", "conv_stem", "bn1")]
    for target, source, expands in _blocks(model):
        if isinstance(model, MobileNetV1):
            tables.append(conv_norm(f"{target}/depthwise", f"{source}.conv_dw", f"{source}.bn1"))
            tables.append(conv_norm(f"{target}/pointwise", f"{source}.conv_pw", f"{source}.bn2"))
        else:
            tables.append(timm_block(target, source, expands, excites=False))
    if isinstance(model, MobileNetV2):
        tables.append(conv_norm("last", "conv_head", "bn2"))
    return join([*tables, head(model.num_classes, "classifier")])


def transformers(model: MobileNetV1 | MobileNetV2) -> Table:
    """Maps `transformers.MobileNetV1ForImageClassification` and `MobileNetV2For…`.

    Raises:
        ValueError: a V2 is so narrow that transformers' computes another function.
    """
    if isinstance(model, MobileNetV1):
        return join([*_transformers_v1(model), head(model.num_classes, "classifier")])
    return join([*_transformers_v2(model), head(model.num_classes, "classifier")])


def _transformers_v1(model: MobileNetV1) -> list[Table]:
    tables = [_transformers_layer("stem", "mobilenet_v1.conv_stem")]
    for number, (target, _, _) in enumerate(_blocks(model)):
        for n, part in enumerate(("depthwise", "pointwise")):
            source = f"mobilenet_v1.layer.{2 * number + n}"
            tables.append(_transformers_layer(f"{target}/{part}", source))
    return tables


def _transformers_v2(model: MobileNetV2) -> list[Table]:
    """The first block is part of transformers' stem, which has no residual."""
    if make_divisible(32 * model.width) == make_divisible(model.stages[0][1] * model.width):
        raise ValueError(
            f"transformers has no residual in the first block: width={model.width} gives it as "
            "many channels as the stem, and so another function"
        )
    tables = [
        _transformers_layer("stem", "mobilenet_v2.conv_stem.first_conv"),
        _transformers_layer("last", "mobilenet_v2.conv_1x1"),
    ]
    names = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
    for number, (target, _, expands) in enumerate(_blocks(model)):
        source = f"layer.{number - 1}" if number else "conv_stem"
        for part, name in names.items():
            if part != "expand" or expands:
                name = f"mobilenet_v2.{source}.{name}"
                tables.append(_transformers_layer(f"{target}/{part}", name))
    return tables


TABLES = {"torchvision": torchvision, "timm": timm, "transformers": transformers}


def _transformers_layer(target: str, source: str) -> Table:
    return conv_norm(target, f"{source}.convolution", f"{source}.normalization")


def _blocks(model: MobileNetV1 | MobileNetV2) -> Iterator[tuple[str, str, bool]]:
    """Yields (target block, timm's block, whether it expands), in order."""
    for stage, (*first, repeats, _) in enumerate(model.stages):
        for index in range(repeats):
            yield f"stage{stage + 1}_{index}", f"blocks.{stage}.{index}", first[0] != 1
