"""Outputs of `jaxtag.annotate`: JSON lines, a CSV table, XMP in sidecars and images, a gallery."""

from jaxtag.inference.writers.base import PredictionWriter
from jaxtag.inference.writers.csv import CsvWriter
from jaxtag.inference.writers.duplicates import DuplicatesWriter
from jaxtag.inference.writers.embed import EmbedWriter
from jaxtag.inference.writers.gallery import GalleryWriter
from jaxtag.inference.writers.jsonl import GrowingJsonlWriter, JsonlWriter, is_finished
from jaxtag.inference.writers.xmp import XmpWriter

__all__ = [
    "CsvWriter",
    "DuplicatesWriter",
    "EmbedWriter",
    "GalleryWriter",
    "GrowingJsonlWriter",
    "JsonlWriter",
    "PredictionWriter",
    "XmpWriter",
    "is_finished",
]
