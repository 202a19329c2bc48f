"""Parameter names of the blocks that MobileNet and EfficientNet share, by library."""

from jaxtag.weights.param_mapping import Table, batch_norm, conv, join


def conv_norm(target: str, convolution: str, norm: str) -> Table:
    """Maps a `ConvNorm` from a convolution and a norm."""
    return conv(f"{target}/conv", convolution) | batch_norm(f"{target}/norm", norm)


def excite(target: str, reduce: str, expand: str) -> Table:
    """Maps a `SqueezeExcite` from two convolutions."""
    return conv(f"{target}/reduce", reduce, bias=True) | conv(f"{target}/expand", expand, bias=True)


def timm_block(target: str, source: str, expands: bool, excites: bool) -> Table:
    """Maps timm's inverted residual, whose last convolution's name depends on the first."""
    names = {"depthwise": "conv_dw", "project": "conv_pw"}
    if expands:
        names = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
    tables = [
        conv_norm(f"{target}/{part}", f"{source}.{name}", f"{source}.bn{number}")
        for number, (part, name) in enumerate(names.items(), start=1)
    ]
    if excites:
        parts = (f"{source}.se.conv_reduce", f"{source}.se.conv_expand")
        tables.append(excite(f"{target}/squeeze_excite", *parts))
    return join(tables)


def torchvision_block(target: str, source: str, expands: bool, excites: bool) -> Table:
    """Maps the inverted residual of torchvision's MobileNet V3 and EfficientNet, by layer index."""
    parts = {"expand": expands, "depthwise": True, "squeeze_excite": excites, "project": True}
    tables = []
    for number, part in enumerate(part for part, is_present in parts.items() if is_present):
        name = f"{source}.block.{number}"
        if part == "squeeze_excite":
            tables.append(excite(f"{target}/{part}", f"{name}.fc1", f"{name}.fc2"))
        else:
            tables.append(conv_norm(f"{target}/{part}", f"{name}.0", f"{name}.1"))
    return join(tables)
