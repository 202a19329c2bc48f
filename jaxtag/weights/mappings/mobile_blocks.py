"""Names of the blocks that MobileNet and EfficientNet share, in the files of each library."""

from jaxtag.weights.param_mapping import Table, batch_norm, conv, join


def conv_norm(ours: str, convolution: str, norm: str) -> Table:
    """A `ConvNorm`, of their convolution and norm."""
    return conv(f"{ours}/conv", convolution) | batch_norm(f"{ours}/norm", norm)


def excite(ours: str, reduce: str, expand: str) -> Table:
    """A `SqueezeExcite`, of their two convolutions."""
    return conv(f"{ours}/reduce", reduce, bias=True) | conv(f"{ours}/expand", expand, bias=True)


def timm_block(ours: str, theirs: str, expands: bool, excites: bool) -> Table:
    """An `InvertedResidual`, of timm's (which names the last convolution by what comes first)."""
    names = {"depthwise": "conv_dw", "project": "conv_pw"}
    if expands:
        names = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
    tables = [
        conv_norm(f"{ours}/{part}", f"{theirs}.{name}", f"{theirs}.bn{number}")
        for number, (part, name) in enumerate(names.items(), start=1)
    ]
    if excites:
        parts = (f"{theirs}.se.conv_reduce", f"{theirs}.se.conv_expand")
        tables.append(excite(f"{ours}/squeeze_excite", *parts))
    return join(tables)


def torchvision_block(ours: str, theirs: str, expands: bool, excites: bool) -> Table:
    """An `InvertedResidual`, of torchvision's V3 or EfficientNet: its layers are numbered."""
    present = {"expand": expands, "depthwise": True, "squeeze_excite": excites, "project": True}
    tables = []
    for number, part in enumerate(part for part, there in present.items() if there):
        name = f"{theirs}.block.{number}"
        if part == "squeeze_excite":
            tables.append(excite(f"{ours}/{part}", f"{name}.fc1", f"{name}.fc2"))
        else:
            tables.append(conv_norm(f"{ours}/{part}", f"{name}.0", f"{name}.1"))
    return join(tables)
