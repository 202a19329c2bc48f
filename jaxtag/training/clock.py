"""Where the time of a run goes: how long the device waited for data."""

import queue
import threading
import time
from typing import Any

import jax


class StepClock:
    """Measures the time in which no step was computed because its batch was not there yet.

    Steps are dispatched without waiting for them, so that drawing a batch overlaps with
    computing. A thread notes when each step really ended; a device waits from then until the
    next batch is drawn. At most `ahead` steps are under way at once, which bounds the batches
    that wait in memory.
    """

    def __init__(self, ahead: int = 2):
        self._ended = time.perf_counter()
        self._steps: queue.Queue[Any] = queue.Queue()
        self._places = threading.Semaphore(ahead)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="step clock", daemon=True)
        self._thread.start()
        self.reset()

    def reset(self) -> None:
        """Starts a new window."""
        self._since = time.perf_counter()
        self._waited = 0.0

    def drawn(self, began: float) -> None:
        """A batch is there whose drawing began at `began` (time.perf_counter())."""
        if self._steps.unfinished_tasks == 0:
            self._waited += time.perf_counter() - max(began, self._ended)

    def dispatched(self, output: jax.Array) -> None:
        """A step was dispatched; `output` is ready when it ended. Waits for a free place."""
        self._places.acquire()
        self._steps.put(output)
        if self._error is not None:
            raise self._error

    def window(self) -> tuple[float, float]:
        """(seconds since reset, share of them that was spent waiting for data)."""
        seconds = time.perf_counter() - self._since
        return seconds, min(1.0, self._waited / max(seconds, 1e-9))

    def close(self) -> None:
        """Waits for the steps under way and ends the thread."""
        self._steps.put(None)
        self._thread.join()

    def _watch(self) -> None:
        while (output := self._steps.get()) is not None:
            try:
                jax.block_until_ready(output)
            except Exception as error:  # raised again at the next dispatch
                self._error = error
            self._ended = time.perf_counter()
            self._steps.task_done()
            self._places.release()
