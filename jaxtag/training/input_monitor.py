"""Says when the devices wait for data, and with `num_workers=auto` starts workers that keep up."""

import math
import os
from collections.abc import Callable, Mapping

from jaxtag.config.schema import DataConfig
from jaxtag.data.pipeline import BatchIterator

_WAIT = 0.05  # of the time, that is worth a word
_MARGIN = 1.2  # workers beyond what decoding needs


class InputMonitor:
    """Watches the share of the time that is spent waiting for data, log line by log line.

    The first line is left out: it holds the start. The setting that would end the waiting follows
    from the time that decoding takes of a core, which is measured then, and that of a step without
    waiting.

    Args:
        settings: `num_workers` auto: workers are started, once; else one line says how many.
        iterator: of the training batches.
        write_text: for the log.
    """

    def __init__(
        self, settings: DataConfig, iterator: BatchIterator, write_text: Callable[[str], None]
    ):
        self._settings, self._iterator, self._write_text = settings, iterator, write_text
        self._num_windows = 0
        self._is_done = False

    def update(self, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a log line: `data_wait_fraction` and `seconds_per_step`."""
        self._num_windows += 1
        wait = metrics["data_wait_fraction"]
        if self._is_done or self._num_windows == 1 or wait <= _WAIT:
            return
        self._is_done = True
        decode_seconds = self._iterator.measure_decoding()
        step_seconds = max(metrics["seconds_per_step"] * (1 - wait), 1e-4)
        cores = len(os.sched_getaffinity(0))
        needed = math.ceil(_MARGIN * decode_seconds / step_seconds)
        workers = min(needed, cores)
        waiting = (
            f"the devices wait {wait:.0%} of the time for data: a batch takes {decode_seconds:.2g} "
            f"s of a core, a step {step_seconds:.2g} s"
        )
        if self._settings.num_workers == "auto" and self._iterator.can_have_workers:
            self._iterator.restart(workers)
            self._write_text(f"{waiting}; {workers} data workers from here on")
        elif needed > cores:
            self._write_text(
                f"{waiting}, more than the {cores} cores here can decode: prepare smaller images, "
                "or take a machine with more cores for each device"
            )
        else:
            self._write_text(f"{waiting}: set config.data.num_workers={workers}, or auto")
