"""A learning-rate finder: the loss while the learning rate rises exponentially."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import optax

from jaxtag.config.schema import Config
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UserError
from jaxtag.storage.atomic_file import write_text
from jaxtag.training import initialization, loop, run_config, run_data
from jaxtag.training.setup import TrainSetup

_SMOOTHING = 0.9  # decay of the moving average of the loss
_DIVERGED = 4.0  # times the lowest smoothed loss: the run ends there
_SKIPPED_START = 5  # steps before the average says anything
_WIDTH, _HEIGHT, _MARGIN = 640, 400, 56  # pixels of the plot


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """The result of `find_lr`.

    Attributes:
        rates, losses: of each step; the losses smoothed.
        suggestion: the rate where the smoothed loss falls fastest.
        plot: the file of the plot.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float
    plot: Path


def find_lr(
    config: Config, folder: Path, num_steps: int, min_lr: float, max_lr: float
) -> LearningRates:
    """Trains from fresh parameters while the learning rate rises from `min_lr` to `max_lr`.

    Args:
        config: checked; its schedule is replaced.
        folder: for the vocabulary, `lr.json` and `lr.svg`.

    Raises:
        UserError: the data are not as they must be, or the loss is not finite from the start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = run_config.with_described_model(config)
    data = run_data.open_data(config, folder)
    task = run_data.task_class(config)(config, data.vocabulary)
    growth = math.log(max_lr / min_lr) / (num_steps - 1)
    lr_schedule = optax.exponential_decay(min_lr, 1, math.exp(growth))
    setup = TrainSetup.from_config(config, task, len(data.train), lr_schedule=lr_schedule)
    state = initialization.init_state(setup, data.train)
    iterator = loop.training_batches(task, data.train)()
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step in range(num_steps):
        batch = meshes.make_global_batch(next(iterator), setup.mesh)
        state, metrics = setup.step(state, batch)
        total, count = (float(value) for value in metrics["loss"])
        loss = total / count if count else math.nan  # a step that was skipped counts nothing
        if not math.isfinite(loss):
            break
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        rates.append(float(min_lr * math.exp(growth * step)))
        losses.append(average / (1 - _SMOOTHING ** (step + 1)))
        if step > _SKIPPED_START and losses[-1] > _DIVERGED * min(losses):
            break
    iterator.close()
    if len(rates) <= _SKIPPED_START:
        raise UserError(
            f"the loss is not finite from step {len(rates)} on: lower --min_lr, or take "
            "config.model.dtype=float32"
        )
    suggestion = steepest_rate(rates, losses)
    write_text(
        folder / "lr.json",
        json.dumps({"rates": rates, "losses": losses, "suggested_learning_rate": suggestion}),
    )
    write_text(folder / "lr.svg", plot_svg(rates, losses, suggestion))
    return LearningRates(rates, losses, suggestion, folder / "lr.svg")


def steepest_rate(rates: list[float], losses: list[float]) -> float:
    """The rate where the loss falls fastest over the logarithm of the rate."""
    slope = np.gradient(np.array(losses), np.log(np.array(rates)))
    return float(rates[_SKIPPED_START + int(np.argmin(slope[_SKIPPED_START:]))])


def plot_svg(rates: list[float], losses: list[float], suggestion: float) -> str:
    """The loss over the learning rate, on a logarithmic axis, with the suggestion marked."""
    logs = np.log10(rates)
    bottom = _HEIGHT - _MARGIN
    low, high = min(losses), max(losses[_SKIPPED_START:] or losses)
    span = max(high - low, 1e-9)

    def x(log_rate: float) -> float:
        return _MARGIN + (log_rate - logs[0]) / (logs[-1] - logs[0]) * (_WIDTH - 2 * _MARGIN)

    def y(loss: float) -> float:
        fraction = min(1.0, max(0.0, (loss - low) / span))
        return bottom - fraction * (_HEIGHT - 2 * _MARGIN)

    points = " ".join(f"{x(log):.1f},{y(v):.1f}" for log, v in zip(logs, losses, strict=True))
    marks = [
        f'<text x="{x(power):.1f}" y="{bottom + 20}" text-anchor="middle">1e{power}</text>'
        for power in range(math.ceil(logs[0]), math.floor(logs[-1]) + 1)
    ]
    marks += [
        f'<text x="{_MARGIN - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value in (low, (low + high) / 2, high)
    ]
    at = x(math.log10(suggestion))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{_WIDTH / 2}" y="24" text-anchor="middle">smoothed loss over the learning rate'
        f"; suggested: {suggestion:.2g}</text>"
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_MARGIN}" y2="{bottom}" '
        'stroke="#c33" stroke-dasharray="4"/>'
        f'<polyline points="{points}" fill="none" stroke="#36c" stroke-width="2"/>'
        f"{''.join(marks)}</svg>\n"
    )
