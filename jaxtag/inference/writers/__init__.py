"""What `jaxtag.annotate` leaves: JSON lines, a table, sidecar files, a gallery.

Each writer takes the lines of `jaxtag.annotate` one at a time (`add`) and is done with `finish`;
memory does not grow with their number.
"""

from jaxtag.inference.writers.csv_table import CsvWriter
from jaxtag.inference.writers.gallery import GalleryWriter
from jaxtag.inference.writers.jsonl import JsonlWriter
from jaxtag.inference.writers.xmp import XmpWriter

__all__ = ["CsvWriter", "GalleryWriter", "JsonlWriter", "XmpWriter"]
