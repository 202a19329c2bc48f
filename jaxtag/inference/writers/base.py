"""The contract of writers of predictions."""

from typing import Protocol

from jaxtag.tasks.base import Row


class PredictionWriter(Protocol):
    """Writes rows of predictions one at a time; memory does not grow with their number."""

    def write(self, row: Row) -> None:
        """Writes the row of one image: `file`, then `tags`, `caption`, …, or its `error`."""

    def close(self) -> None:
        """Completes the output. Without it, files keep the names of unfinished ones."""

    def abort(self) -> None:
        """Gives the output up, after an error or `close`."""
