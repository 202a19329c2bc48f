"""Parameter names of other libraries: one declarative table per architecture and library."""

import importlib
from collections.abc import Callable

import flax.linen as nn

from jaxtag.weights.param_mapping import Table

# From the class of a model to the module here that has its tables.
_MODULES = {
    "AlexNet": "alexnet",
    "Captioner": "captioner",
    "ConvNeXt": "convnext",
    "EfficientNet": "efficientnet",
    "ImageText": "image_text",
    "MobileNetV1": "mobilenet",
    "MobileNetV2": "mobilenet",
    "MobileNetV3": "mobilenet_v3",
    "ResNet": "resnet",
    "SqueezeNet": "squeezenet",
    "ViT": "vit",
}


def tables(model: nn.Module) -> dict[str, Callable[[nn.Module], Table]]:
    """Functions that make the table of `model`, by library; empty where no library has the model.

    A function raises ValueError where its library cannot represent a model with these fields.
    """
    name = _MODULES.get(type(model).__name__)
    return importlib.import_module(f"{__name__}.{name}").TABLES if name else {}


def readable_tables(model: nn.Module) -> list[tuple[str, Callable[[nn.Module], Table]]]:
    """(library, function as of `tables`) of all that a model is read by.

    The image tower of a CLIP or SigLIP is also read from the files of the whole model.
    """
    towers = importlib.import_module(f"{__name__}.image_text").TOWERS
    more = towers if type(model).__name__ == "ViT" else {}
    return [*tables(model).items(), *more.items()]
