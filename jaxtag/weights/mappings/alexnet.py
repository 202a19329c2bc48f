"""Parameter names of AlexNet in torchvision."""

from jaxtag.models.alexnet import GRID, AlexNet
from jaxtag.weights.param_mapping import Table, conv, head, join, linear


def torchvision(model: AlexNet) -> Table:
    """Maps `torchvision.models.alexnet`. Raises ValueError for two towers, which it lacks."""
    if model.two_towers:
        raise ValueError("an AlexNet of two towers has no counterpart in other libraries")
    tables = [
        conv(f"stage{stage}/conv", f"features.{number}", bias=True)
        for stage, number in enumerate((0, 3, 6, 8, 10), start=1)
    ]
    tables += [
        {
            "params/hidden1/kernel": (f"flat:{GRID},{GRID}", "classifier.1.weight"),
            "params/hidden1/bias": ("", "classifier.1.bias"),
        },
        linear("hidden2", "classifier.4"),
    ]
    return join([*tables, head(model.num_classes, "classifier.6")])


TABLES = {"torchvision": torchvision}
