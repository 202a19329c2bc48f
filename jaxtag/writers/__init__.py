"""What `jaxtag.annotate` leaves: JSON lines, a table, sidecar files, a gallery.

Each writer takes the lines of `jaxtag.annotate` one at a time (`add`) and is done with `finish`;
memory does not grow with their number.
"""

from jaxtag.writers.gallery import Gallery
from jaxtag.writers.lines import Lines
from jaxtag.writers.sidecars import Sidecars
from jaxtag.writers.table import Table

__all__ = ["Gallery", "Lines", "Sidecars", "Table"]
