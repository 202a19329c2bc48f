"""The task: how many white squares an image has."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtag import registry
from jaxtag.config import TaskConfig
from jaxtag.distributed.mesh import replicated, with_mesh
from jaxtag.tasks import common
from jaxtag.tasks.base import Evaluation, EvaluationData, LossOutput, Sample, Task


@dataclasses.dataclass
class CountConfig(TaskConfig):
    """Counting."""

    TASK: ClassVar[str] = "counting_project.task:CountTask"

    loss: str = "counting_project.parts:poisson"
    loss_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


class Counter(nn.Module):
    """A positive number from a backbone's pooled features."""

    backbone: nn.Module

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        pooled = self.backbone(images, train)["pooled"]
        return {"count": nn.softplus(nn.Dense(1, name="head")(pooled))[:, 0] + 1e-3}


@dataclasses.dataclass(frozen=True)
class Squares:
    """int32 []: the number of squares of a record."""

    random: ClassVar[bool] = False

    @property
    def empty(self) -> np.ndarray:
        return np.zeros((), np.int32)

    def __call__(self, record: dict[str, Any], rng: Any) -> np.ndarray:
        return np.int32(record["squares"])


class CountTask(Task):
    """Counts squares; it needs no vocabulary."""

    config_class = CountConfig
    headline_metrics = ("negative_error",)
    vocabulary_file = None
    contact_sheet = "counts.png"

    def __init__(self, config: Any, vocabulary: Any, model: nn.Module | None = None):
        super().__init__(config, vocabulary, model)
        self._loss = registry.resolve("count_loss", config.task.loss, "config.task.loss")
        registry.check_kwargs(self._loss, config.task.loss_kwargs, "config.task.loss_kwargs")

    def make_model(self) -> nn.Module:
        return Counter(common.make_backbone(self.config))

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        return self.model.backbone, ("backbone",)

    def targets(self, train: bool) -> dict[str, Any]:
        return {"squares": Squares()}

    def loss(self, variables: Any, batch: Any, key: jax.Array | None) -> LossOutput:
        images, model_key = batch["image"], None
        if key is not None:
            augment_key, model_key = jax.random.split(key)
            images = self.augmentation.images(images, augment_key, batch)
        outputs, changed = common.apply_model(
            self.model, variables, self.normalize(images), key=model_key
        )
        squares, mask = batch["squares"].astype(jnp.float32), batch["mask"]
        losses = self._loss(outputs["count"], squares, **self.config.task.loss_kwargs) * mask
        metrics = {"loss": (losses.sum(), mask.sum())}
        return LossOutput(losses, mask, metrics, changed)

    def count(self, variables: Any, batch: Any) -> jax.Array:
        images = self.normalize(batch["image"])
        return common.apply_model(self.model, variables, images, key=None)[0]["count"]

    def make_predict(self) -> Any:
        count = jax.jit(self.count)
        return lambda variables, batch, key: {"count": count(variables, batch)}

    def rows(self, outputs: dict[str, np.ndarray], top_k=None) -> list[dict[str, Any]]:
        return [{"count": round(float(count), 3)} for count in outputs["count"]]

    def make_evaluation_step(self, mesh: Any) -> Any:
        count = jax.jit(with_mesh(mesh, self.count), out_shardings=replicated(mesh))
        return lambda variables, batch, key: (
            {},
            {"count": count(variables, batch), "squares": batch["squares"]},
        )

    def evaluate(self, data: EvaluationData) -> Evaluation:
        error = float(np.abs(data.rows["count"] - data.rows["squares"]).mean())
        metrics = {"negative_error": -error, "examples": float(len(data.index))}
        return CountEvaluation(metrics, data)


class CountEvaluation(Evaluation):
    """Counts, beside the mean count for every image."""

    def samples(self) -> list[Sample]:
        return [
            Sample(
                position,
                image,
                f"{self.rows['count'][position]:.1f}",
                [str(self.rows["squares"][position])],
            )
            for position, image in sorted(self.images.items())
        ]

    def with_baselines(self, data: Any) -> dict[str, dict[str, float]]:
        squares = self.rows["squares"]
        mean = {"negative_error": -float(np.abs(squares - squares.mean()).mean())}
        return {"model": self.metrics, "mean count": mean}
