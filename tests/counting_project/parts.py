"""A model, a loss, a metric, an augmentation, a schedule, a metric writer and a callback."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxtag
from jaxtag.models.preprocessing import Preprocessing


class SmallNet(nn.Module):
    """Two convolutions; `depth` further ones."""

    PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.5,) * 3)

    width: int = 8
    depth: int = 0

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        x = nn.relu(nn.Conv(self.width, (4, 4), (2, 2))(images))
        for _ in range(self.depth):
            x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        x = nn.relu(nn.Conv(2 * self.width, (4, 4), (2, 2))(x))
        return {"features": x, "pooled": x.mean((1, 2))}


def poisson(rate: jax.Array, target: jax.Array, *, full: bool = False) -> jax.Array:
    """Negative log-likelihood of counts [B]."""
    loss = rate - target * jnp.log(rate)
    return loss + jax.scipy.special.gammaln(target + 1) if full else loss


def within_half(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """The fraction of images whose count is right when it is rounded."""
    return {"within_half": float(np.mean(np.abs(rows["count"] - rows["squares"]) < 0.5))}


def darken(images: jax.Array, keys: jax.Array) -> jax.Array:
    """Each image darker by up to a tenth."""
    factors = jax.vmap(lambda key: jax.random.uniform(key, minval=0.9))(keys)
    return (images * factors[:, None, None, None]).astype(jnp.uint8)


def slow_start(learning_rate: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Rises over the first half."""
    del warmup_steps
    return optax.linear_schedule(0.0, learning_rate, max(1, total_steps // 2))


def plain_adam(learning_rate: optax.ScalarOrSchedule, *, beta: float = 0.9):
    """Adam with one momentum."""
    return optax.adam(learning_rate, b1=beta)


class CsvMetricWriter(jaxtag.MetricWriter):
    """`losses.csv`: step and loss."""

    def open(self, run) -> None:
        self._path = run.workdir / "losses.csv"

    def write_scalars(self, step, split, values) -> None:
        if split == "train":
            with self._path.open("a") as file:
                file.write(f"{step},{values['loss']}\n")


class CountSaves(jaxtag.Callback):
    """Keeps the steps of all saves."""

    steps: list[int] = []  # noqa: RUF012 (for tests)

    def on_checkpoint(self, step: int) -> None:
        self.steps.append(step)
