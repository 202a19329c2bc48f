"""What all readers of encoded images share: the interface, limits of size and memory, upright."""

import abc
import contextlib
import functools
import os
import threading
from collections.abc import Iterator

import numpy as np

# The pixels that an image may claim in its header; more are refused before anything is decoded.
MAX_PIXELS = 80_000_000
# No side is longer: an image of one column takes many times its pixels (pointers to rows).
_MAX_SIDE = 1 << 18
# Images of more pixels wait for each other where they would take more than _MEMORY_BUDGET bytes
# together, at _BYTES_PER_PIXEL.
LARGE_PIXELS = 8_000_000
_BYTES_PER_PIXEL = 12
_MEMORY_BUDGET = 2 << 30
_STRIP_PIXELS = 4 << 20  # converted at once


class DecodeError(ValueError):
    """An image that cannot be used; its text is the reason, fit for a report to the user."""


class ImageReader(abc.ABC):
    """An image whose header was read and whose pixels were not.

    Attributes:
        height: In pixels, upright.
        width: In pixels, upright.
        orientation: By which EXIF orientation the stored pixels are turned, 1 to 8.
        notes: What is odd about the file and harmless.
    """

    height: int
    width: int
    orientation: int = 1
    notes: tuple[str, ...] = ()

    def factor(self, scale: float) -> float:
        """By how much `pixels(scale)` scales: at least `scale`, at most 1, whatever is cheapest.

        An image of more than MAX_PIXELS is scaled by less than `scale` asks for.
        """
        del scale
        return 1.0

    @abc.abstractmethod
    def pixels(self, scale: float = 1.0, bottom: int | None = None) -> np.ndarray:
        """Decodes to uint8 [H, W, 3], upright RGB, scaled by `factor(scale)`, sizes rounded up.

        Rows of the image from `bottom` on may be missing.

        Raises:
            DecodeError: The data are damaged or cut short.
        """


def strips(height: int, width: int) -> Iterator[slice]:
    """Slices of rows of an image, of few enough pixels to be converted at once."""
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


class _MemoryBudget:
    """Bytes that the threads of a process share: large images wait for each other."""

    def __init__(self, total: int):
        self._free = self._total = total
        self._condition = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        size = min(size, self._total)
        with self._condition:
            self._condition.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._condition:
                self._free += size
                self._condition.notify_all()


@functools.cache
def _budget(process: int) -> _MemoryBudget:
    """That of a process: one that was forked must not wait for threads of its parent."""
    del process
    return _MemoryBudget(_MEMORY_BUDGET)


def hold_memory(num_pixels: int) -> contextlib.AbstractContextManager[None]:
    """Waits until an image of that size may be decoded; a small one need not."""
    if num_pixels <= LARGE_PIXELS:
        return contextlib.nullcontext()
    return _budget(os.getpid()).hold(num_pixels * _BYTES_PER_PIXEL)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns and mirrors `image` as its EXIF orientation asks (1 and unknown values: as is)."""
    if orientation == 1:
        return image
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises DecodeError where an image is empty, or of more pixels than are allowed."""
    if width < 1 or height < 1:
        raise DecodeError(f"the image is empty ({width}x{height})")
    if max(width, height) > _MAX_SIDE:
        raise DecodeError(f"{width}x{height}: no side may have more than {_MAX_SIDE:,} pixels")
    if width * height > max_pixels:
        raise DecodeError(
            f"{width}x{height} is more than the {max_pixels:,} pixels allowed: scale it down"
        )
