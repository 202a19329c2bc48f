"""What `jaxtag.annotate` leaves: JSON lines, a table, sidecar files, a gallery.

Each writer takes the lines of `jaxtag.annotate` one at a time (`add`) and is done with `finish`;
memory does not grow with their number.
"""

from jaxtag.inference.writers.csv_table import Table
from jaxtag.inference.writers.gallery import Gallery
from jaxtag.inference.writers.jsonl import Lines
from jaxtag.inference.writers.xmp import Sidecars

__all__ = ["Gallery", "Lines", "Sidecars", "Table"]
