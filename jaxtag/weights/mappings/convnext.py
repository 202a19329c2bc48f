"""Parameter names of ConvNeXt and ConvNeXt V2 in timm and transformers."""

from collections.abc import Iterator

from jaxtag.models.convnext import ConvNeXt
from jaxtag.weights.param_mapping import Table, conv, head, join, layer_norm, linear


def timm(model: ConvNeXt) -> Table:
    """Maps timm's `convnext_tiny`, `convnextv2_tiny` and other sizes."""
    tables = [
        conv("stem", "stem.0", bias=True),
        layer_norm("stem_norm", "stem.1"),
        layer_norm("norm", "head.norm"),
    ]
    for stage in range(2, len(model.depths) + 1):
        source = f"stages.{stage - 1}.downsample"
        tables += _downsample(stage, f"{source}.0", f"{source}.1")
    for target, stage, index in _blocks(model):
        source = f"stages.{stage}.blocks.{index}"
        tables += [
            conv(f"{target}/depthwise", f"{source}.conv_dw", bias=True),
            layer_norm(f"{target}/norm", f"{source}.norm"),
            linear(f"{target}/fc1", f"{source}.mlp.fc1"),
            linear(f"{target}/fc2", f"{source}.mlp.fc2"),
        ]
        if model.grn:
            tables.append(layer_norm(f"{target}/grn", f"{source}.mlp.grn"))
        if model.layer_scale is not None:
            tables.append({f"params/{target}/scale": ("", f"{source}.gamma")})
    return join([*tables, head(model.num_classes, "head.fc")])


def transformers(model: ConvNeXt) -> Table:
    """Maps `transformers.ConvNextForImageClassification` and `ConvNextV2ForImageClassification`.

    Raises:
        ValueError: it has either no norm of V2 nor V1's scales, or both.
    """
    prefix = transformers_kind(model)
    tables = [
        conv("stem", f"{prefix}.embeddings.patch_embeddings", bias=True),
        layer_norm("stem_norm", f"{prefix}.embeddings.layernorm"),
        layer_norm("norm", f"{prefix}.layernorm"),
    ]
    for stage in range(2, len(model.depths) + 1):
        source = f"{prefix}.encoder.stages.{stage - 1}.downsampling_layer"
        tables += _downsample(stage, f"{source}.0", f"{source}.1")
    for target, stage, index in _blocks(model):
        source = f"{prefix}.encoder.stages.{stage}.layers.{index}"
        tables += [
            conv(f"{target}/depthwise", f"{source}.dwconv", bias=True),
            layer_norm(f"{target}/norm", f"{source}.layernorm"),
            linear(f"{target}/fc1", f"{source}.pwconv1"),
            linear(f"{target}/fc2", f"{source}.pwconv2"),
        ]
        if model.grn:
            names = {"scale": "weight", "bias": "bias"}
            tables.append(
                {
                    f"params/{target}/grn/{ours}": ("first first first", f"{source}.grn.{theirs}")
                    for ours, theirs in names.items()
                }
            )
        else:
            tables.append({f"params/{target}/scale": ("", f"{source}.layer_scale_parameter")})
    return join([*tables, head(model.num_classes, "classifier")])


TABLES = {"timm": timm, "transformers": transformers}


def transformers_kind(model: ConvNeXt) -> str:
    """The `model_type` of transformers. Raises ValueError where it has no such model."""
    if model.grn == (model.layer_scale is not None):
        raise ValueError("its ConvNeXt has either layer_scale (V1) or grn (V2)")
    return "convnextv2" if model.grn else "convnext"


def _downsample(stage: int, norm: str, convolution: str) -> list[Table]:
    return [
        layer_norm(f"downsample{stage}_norm", norm),
        conv(f"downsample{stage}", convolution, bias=True),
    ]


def _blocks(model: ConvNeXt) -> Iterator[tuple[str, int, int]]:
    """Yields (target block, stage from 0, index in the stage), in order."""
    for stage, depth in enumerate(model.depths):
        for index in range(depth):
            yield f"stage{stage + 1}_{index}", stage, index
