"""Models: pure linen modules, and a registry of backbones by name.

Importing the families registers their names.
"""

from jaxtag.models import (  # noqa: F401
    airbench,
    alexnet,
    capsnet,
    convnext,
    efficientnet,
    mobilenet,
    mobilenet_v3,
    resnet,
    squeezenet,
    vit,
)
from jaxtag.models.decoder import Captioner, Decoder
from jaxtag.models.embedder import Embedder
from jaxtag.models.frozen import BackboneOutput, LinearProbe
from jaxtag.models.image_text import ImageText
from jaxtag.models.ml_decoder import MLDecoder
from jaxtag.models.registry import (
    create_model,
    field_names,
    get_preprocessing,
    list_models,
    module_class,
    register_model,
)
from jaxtag.models.text_encoder import TextEncoder
from jaxtag.models.vit import ViT

create, names, preprocessing_of = create_model, list_models, get_preprocessing  # names of 0.1

__all__ = [
    "BackboneOutput",
    "Captioner",
    "Decoder",
    "Embedder",
    "ImageText",
    "LinearProbe",
    "MLDecoder",
    "TextEncoder",
    "ViT",
    "create_model",
    "field_names",
    "get_preprocessing",
    "list_models",
    "module_class",
    "register_model",
]
