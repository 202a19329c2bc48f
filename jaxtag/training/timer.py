"""Timers: the phases until the first step, and the time that the device waits for data."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import jax


class StartupTimer:
    """The phases from the start of the process to the end of the first step.

    Args:
        since: when the first phase began (time.perf_counter()); None: now.
    """

    def __init__(self, since: float | None = None):
        self._last = time.perf_counter() if since is None else since
        self.parts: dict[str, float] = {}  # phase -> seconds

    def done(self, part: str) -> bool:
        """Ends the phase `part`; returns False, and changes nothing, if it had ended before."""
        if part in self.parts:
            return False
        now = time.perf_counter()
        self.parts[part], self._last = now - self._last, now
        return True

    @property
    def seconds(self) -> float:
        """The time since the first phase began."""
        return sum(self.parts.values()) + time.perf_counter() - self._last

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in self.parts.items())
        return f"first step after {sum(self.parts.values()):.2f} s: {parts}"


class StepTimer:
    """Measures the time in which no step runs because its batch is not there yet.

    Steps are dispatched without waiting for them, so that drawing a batch overlaps with computing.
    A thread notes when each step really ends; a device waits from then until the next batch is
    drawn. At most `ahead` steps are in flight at once, which bounds the batches held in memory.

    Args:
        startup: the phases before; it gets those of the first step.
        write_text: is called with `startup` as text when the first step has ended.
        ahead: steps in flight at once.
    """

    def __init__(self, startup: StartupTimer, write_text: Callable[[str], None], ahead: int = 2):
        self._startup, self._write_text = startup, write_text
        self._ended = time.perf_counter()
        self._steps: queue.Queue[Any] = queue.Queue()
        self._slots = threading.Semaphore(ahead)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="step timer", daemon=True)
        self._thread.start()
        self.reset()

    def reset(self) -> None:
        """Starts a new window."""
        self._since = time.perf_counter()
        self._waited = 0.0

    def drawn(self, began: float) -> None:
        """Notes that a batch is there whose drawing began at `began` (time.perf_counter())."""
        if self._steps.unfinished_tasks == 0:
            self._waited += time.perf_counter() - max(began, self._ended)
        self._startup.done("first batch")

    def dispatched(self, output: jax.Array) -> None:
        """Notes that the step that returns `output` was dispatched. Waits for a free slot."""
        self._startup.done("compilation")
        self._slots.acquire()
        self._steps.put(output)
        if self._error is not None:
            raise self._error

    def window(self) -> tuple[float, float]:
        """Returns (seconds since reset, fraction of them that was spent waiting for data)."""
        seconds = time.perf_counter() - self._since
        return seconds, min(1.0, self._waited / max(seconds, 1e-9))

    def close(self) -> None:
        """Waits for the steps in flight and ends the thread."""
        self._steps.put(None)
        self._thread.join()

    def _watch(self) -> None:
        while (output := self._steps.get()) is not None:
            try:
                jax.block_until_ready(output)
                if self._startup.done("step"):
                    self._write_text(str(self._startup))
            except Exception as error:  # raised again at the next dispatch
                self._error = error
            self._ended = time.perf_counter()
            self._steps.task_done()
            self._slots.release()
