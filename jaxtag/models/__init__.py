"""Models: pure linen modules, and a registry of backbones by name."""

from jaxtag.decoding.generate import generate
from jaxtag.models.captioner import Captioner
from jaxtag.models.decoder import Decoder
from jaxtag.models.embedder import Embedder
from jaxtag.models.ml_decoder import MLDecoder
from jaxtag.models.registry import create_model, field_names, get_preprocessing, list_models
from jaxtag.models.vit import ViT

__all__ = [
    "Captioner",
    "Decoder",
    "Embedder",
    "MLDecoder",
    "ViT",
    "create_model",
    "field_names",
    "generate",
    "get_preprocessing",
    "list_models",
]
