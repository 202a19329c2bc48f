"""Parameter names of SqueezeNet in torchvision."""

from jaxtag.models.squeezenet import SqueezeNet
from jaxtag.weights.param_mapping import Table, conv, join


def torchvision(model: SqueezeNet) -> Table:
    """Maps `torchvision.models.squeezenet1_0` and `squeezenet1_1`."""
    tables = [conv("stem", "features.0", bias=True)]
    number = 3  # index of the source layer; a stage's pool counts too
    for stage, sizes in enumerate(model.stages, start=1):
        for index in range(len(sizes)):
            for part in ("squeeze", "expand1x1", "expand3x3"):
                target, source = f"stage{stage}_{index}/{part}", f"features.{number}.{part}"
                tables.append(conv(target, source, bias=True))
            number += 1
        number += 1
    if model.num_classes:
        kernel: Table = {"params/head/kernel": ("pointwise", "classifier.1.weight")}
        tables += [kernel, {"params/head/bias": ("", "classifier.1.bias")}]
    return join(tables)


TABLES = {"torchvision": torchvision}
