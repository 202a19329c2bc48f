"""TensorBoard event files, written without TensorFlow."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter


class TensorBoardWriter:
    """Scalars and captioned pictures of a run, as TensorBoard shows them.

    Args:
      directory: where the event files go.
      purge_step: TensorBoard hides points of earlier event files from this step on; a resumed
        run gives its first step, so that what it computes again does not show twice.
    """

    def __init__(self, directory: Path, purge_step: int | None = None):
        self._writer = SummaryWriter(str(directory), purge_step=purge_step, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to the curve of each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def image(self, step: int, name: str, image: np.ndarray, caption: str) -> None:
        """Adds a picture, uint8 [H, W, 3], and its caption under the same name."""
        self._writer.add_image(name, image, step, dataformats="HWC")
        self._writer.add_text(name, caption, step)

    def close(self) -> None:
        """Writes what is still in memory."""
        self._writer.close()
