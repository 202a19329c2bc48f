"""Metrics of the steps between two log lines, and the checks on them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxtag.config.schema import Config
from jaxtag.errors import UserError
from jaxtag.training.timer import StepTimer

_ENOUGH_IMAGES = 200  # before the fraction of corrupt ones says anything


class LogWindow:
    """Metrics of the steps since the last log line; ends runs that go wrong."""

    def __init__(self, config: Config):
        self._config = config
        self._metrics: list[dict[str, Any]] = []
        self._images = self._corrupt = 0.0

    def add(self, metrics: dict[str, Any]) -> None:
        self._metrics.append(metrics)

    def read(
        self, step: int, timer: StepTimer, describe_nonfinite: Callable[[int], str]
    ) -> dict[str, float]:
        """Means over the window, which starts anew. Waits for its last step.

        Args:
            step: Steps made so far.
            timer: Of the steps.
            describe_nonfinite: Says which records spoiled a step.

        Raises:
            UserError: Too many steps in a row were not finite, or too many images broken.
        """
        fetched = jax.device_get(self._metrics)
        seconds, data_wait = timer.window()  # now that its steps have ended
        steps, self._metrics = len(fetched), []
        sums = {
            name: np.sum([np.asarray(item[name], np.float64) for item in fetched], axis=0)
            for name in fetched[0]
        }
        in_row = [item["skipped_in_row"][0] for item in fetched]
        self._check_gradients(step, in_row, describe_nonfinite)
        self._check_images(*sums["corrupt_images"])
        counters = ("skipped_in_row", "skipped_steps", "corrupt_images", "learning_rate")
        values = {
            name: float(total / max(count, 1e-9))
            for name, (total, count) in sums.items()
            if name not in counters
        }
        values["learning_rate"] = float(fetched[-1]["learning_rate"][0])
        values["skipped_steps"] = float(sums["skipped_steps"][0])
        values["corrupt_images"] = float(sums["corrupt_images"][0])
        values["images_per_second"] = steps * self._config.batch_size / seconds
        values["seconds_per_step"] = seconds / steps
        values["data_wait_fraction"] = data_wait
        return values

    def _check_gradients(
        self, step: int, in_row: list[float], describe_nonfinite: Callable[[int], str]
    ) -> None:
        limit = self._config.max_consecutive_nonfinite
        for position, count in enumerate(in_row):
            if count >= limit:
                last = step - len(in_row) + position
                first = last - int(count) + 1
                raise UserError(
                    f"the gradient was not finite in {int(count)} steps in a row, {first} to "
                    f"{last}; these changed nothing. In step {first} "
                    f"{describe_nonfinite(first)}. Look at them with python -m jaxtag.debug "
                    f"replay --workdir=DIR --step={first}; lower config.optimizer.learning_rate, "
                    "set config.optimizer.grad_clip_norm, or take config.model.dtype=float32 "
                    "(limit: config.max_consecutive_nonfinite)"
                )

    def _check_images(self, corrupt: float, images: float) -> None:
        self._images += images
        self._corrupt += corrupt
        limit = self._config.data.max_corrupt_fraction
        if self._images >= _ENOUGH_IMAGES and self._corrupt > limit * self._images:
            raise UserError(
                f"{int(self._corrupt)} of {int(self._images)} pictures of "
                f"{self._config.data.dataset} could not be decoded, more than "
                f"config.data.max_corrupt_fraction = {limit:g}; prepare the data set again "
                "(its ledger names the broken files)"
            )
