"""MobileNet V1 in the files of timm and transformers, V2 also in torchvision's."""

from collections.abc import Iterator

from jaxtag.models.mobile_blocks import make_divisible
from jaxtag.models.mobilenet import MobileNetV1, MobileNetV2
from jaxtag.weights.mappings.mobile_blocks import conv_norm, timm_block
from jaxtag.weights.param_mapping import Table, join, linear


def torchvision(model: MobileNetV2) -> Table:
    """`torchvision.models.mobilenet_v2`. Raises ValueError for V1, which it does not have."""
    if isinstance(model, MobileNetV1):
        raise ValueError('torchvision has no MobileNet V1; name its files "timm" or "transformers"')
    tables = [conv_norm("stem", "features.0.0", "features.0.1")]
    blocks = list(_blocks(model))
    for number, (ours, _, expands) in enumerate(blocks, start=1):
        theirs = f"features.{number}.conv"
        parts = ["expand", "depthwise"] if expands else ["depthwise"]
        for n, part in enumerate(parts):
            tables.append(conv_norm(f"{ours}/{part}", f"{theirs}.{n}.0", f"{theirs}.{n}.1"))
        last = (f"{theirs}.{len(parts)}", f"{theirs}.{len(parts) + 1}")
        tables.append(conv_norm(f"{ours}/project", *last))
    theirs = f"features.{len(blocks) + 1}"
    tables.append(conv_norm("last", f"{theirs}.0", f"{theirs}.1"))
    return join(tables + _head(model, "classifier.1"))


def timm(model: MobileNetV1 | MobileNetV2) -> Table:
    """timm's `mobilenetv1_100`, `mobilenetv2_100` and their like."""
    tables = [conv_norm("stem", "conv_stem", "bn1")]
    for ours, theirs, expands in _blocks(model):
        if isinstance(model, MobileNetV1):
            tables.append(conv_norm(f"{ours}/depthwise", f"{theirs}.conv_dw", f"{theirs}.bn1"))
            tables.append(conv_norm(f"{ours}/pointwise", f"{theirs}.conv_pw", f"{theirs}.bn2"))
        else:
            tables.append(timm_block(ours, theirs, expands, excites=False))
    if isinstance(model, MobileNetV2):
        tables.append(conv_norm("last", "conv_head", "bn2"))
    return join(tables + _head(model, "classifier"))


def transformers(model: MobileNetV1 | MobileNetV2) -> Table:
    """`transformers.MobileNetV1ForImageClassification` and `MobileNetV2ForImageClassification`.

    Raises ValueError for a V2 so narrow that theirs is another function.
    """
    body = _transformers_v1 if isinstance(model, MobileNetV1) else _transformers_v2
    return join([*body(model), *_head(model, "classifier")])


def _transformers_v1(model: MobileNetV1) -> list[Table]:
    tables = [_transformers_layer("stem", "mobilenet_v1.conv_stem")]
    for number, (ours, _, _) in enumerate(_blocks(model)):
        for n, part in enumerate(("depthwise", "pointwise")):
            theirs = f"mobilenet_v1.layer.{2 * number + n}"
            tables.append(_transformers_layer(f"{ours}/{part}", theirs))
    return tables


def _transformers_v2(model: MobileNetV2) -> list[Table]:
    """Our first block belongs to their stem, where nothing is added."""
    if make_divisible(32 * model.width) == make_divisible(model.stages[0][1] * model.width):
        raise ValueError(
            f"transformers adds no input in the first block: width={model.width} gives it as many "
            "channels as the stem, and so another function"
        )
    tables = [
        _transformers_layer("stem", "mobilenet_v2.conv_stem.first_conv"),
        _transformers_layer("last", "mobilenet_v2.conv_1x1"),
    ]
    names = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
    for number, (ours, _, expands) in enumerate(_blocks(model)):
        theirs = f"layer.{number - 1}" if number else "conv_stem"
        for part, name in names.items():
            if part != "expand" or expands:
                name = f"mobilenet_v2.{theirs}.{name}"
                tables.append(_transformers_layer(f"{ours}/{part}", name))
    return tables


TABLES = {"torchvision": torchvision, "timm": timm, "transformers": transformers}


def _transformers_layer(ours: str, theirs: str) -> Table:
    return conv_norm(ours, f"{theirs}.convolution", f"{theirs}.normalization")


def _blocks(model: MobileNetV1 | MobileNetV2) -> Iterator[tuple[str, str, bool]]:
    """(our block, timm's, whether it expands), in order."""
    for stage, (*first, repeats, _) in enumerate(model.stages):
        for index in range(repeats):
            yield f"stage{stage + 1}_{index}", f"blocks.{stage}.{index}", first[0] != 1


def _head(model: MobileNetV1 | MobileNetV2, theirs: str) -> list[Table]:
    return [linear("head", theirs)] if model.num_classes else []
