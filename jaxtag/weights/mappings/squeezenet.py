"""SqueezeNet in the files of torchvision."""

from jaxtag.models.squeezenet import SqueezeNet
from jaxtag.weights.param_mapping import Table, conv, join


def torchvision(model: SqueezeNet) -> Table:
    """`torchvision.models.squeezenet1_0` and `squeezenet1_1`."""
    tables = [conv("stem", "features.0", bias=True)]
    number = 3  # of their layers; a stage's pool is one too
    for stage, sizes in enumerate(model.stages, start=1):
        for index in range(len(sizes)):
            for part in ("squeeze", "expand1x1", "expand3x3"):
                ours, theirs = f"stage{stage}_{index}/{part}", f"features.{number}.{part}"
                tables.append(conv(ours, theirs, bias=True))
            number += 1
        number += 1
    if model.num_classes:
        kernel = {"params/head/kernel": ("pointwise", "classifier.1.weight")}
        tables += [kernel, {"params/head/bias": ("", "classifier.1.bias")}]
    return join(tables)


TABLES = {"torchvision": torchvision}
