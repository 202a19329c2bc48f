"""A data source that makes its records: gray noise with up to three white squares."""

from collections.abc import Sequence
from typing import Any

import numpy as np

SIZE, LARGEST = 16, 3
_COUNTS = {"train": 96, "validation": 24, "test": 24}


class Squares:
    """Records {"image": uint8 [16, 16, 3], "squares": int}, the same for the same split."""

    def __init__(self, split: str):
        self.split = split

    def __len__(self) -> int:
        return _COUNTS[self.split]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self._record(index) for index in indices]

    def _record(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((list(_COUNTS).index(self.split), index))
        squares = index % (LARGEST + 1)
        return {"image": draw(squares, rng), "squares": squares}


def draw(squares: int, rng: np.random.Generator) -> np.ndarray:
    """An image with so many squares, uint8 [16, 16, 3]."""
    image = rng.integers(40, 90, (SIZE, SIZE, 3), np.uint8)
    for cell in rng.permutation(4)[:squares]:
        row, column = 8 * (cell // 2) + 2, 8 * (cell % 2) + 2
        image[row : row + 4, column : column + 4] = 255
    return image
