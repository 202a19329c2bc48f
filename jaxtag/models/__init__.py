"""Models: pure linen modules, and a registry of backbones by name."""

from jaxtag.decoding.generate import generate
from jaxtag.models.captioner import Captioner
from jaxtag.models.decoder import Decoder
from jaxtag.models.embedder import Embedder
from jaxtag.models.ml_decoder import QueryTagger
from jaxtag.models.registry import create, field_names, names, preprocessing_of
from jaxtag.models.vit import ViT

__all__ = [
    "Captioner",
    "Decoder",
    "Embedder",
    "QueryTagger",
    "ViT",
    "create",
    "field_names",
    "generate",
    "names",
    "preprocessing_of",
]
