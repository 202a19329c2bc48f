"""The task of deep metric learning: what shares a class, or a tag, lies near each other."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtag import augment, models
from jaxtag.config.schema import Config
from jaxtag.data import pipeline
from jaxtag.data.labels import LabelNames
from jaxtag.errors import UsageError
from jaxtag.losses import metric
from jaxtag.losses.metric import pair_masks
from jaxtag.tasks import common
from jaxtag.tasks.classify import task as classify
from jaxtag.tasks.tag import task as tag

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class EmbedTask:
    """Pure functions of (variables, batch, key).

    A batch has `image` uint8 [B, S, S, 3], `label` int32 [B] or `tags` and `known` uint8 [B, T] (as
    TagTask's), and `mask` float32 [B] (0: padding, or a picture that was broken).

    Attributes:
      criterion: (embeddings [B, D], labels [B], mask [B], proxies [C, D] where the model has them)
        → (sum, weight), as `metric_losses` makes it.
      image_size: S.
      grey: the model sees one channel, the mean of the three.
    """

    model: models.Embedder
    criterion: Callable[..., tuple[jax.Array, jax.Array]]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: augment.Augmentation
    grey: bool = False

    def init(self, key: jax.Array) -> Any:
        """Variables of the model."""
        channels = 1 if self.grey else 3
        images = jnp.zeros((1, self.image_size, self.image_size, channels), jnp.float32)
        return self.model.init(key, images)

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """What the embedding is a linear function of."""
        return self.model.backbone, ("backbone",)

    def images(self, images: jax.Array) -> jax.Array:
        """Pictures [B, S, S, 3] as the model takes them, [B, S, S, C] float32."""
        return augment.normalize(images, self.mean, self.std, grey=self.grey)

    def loss(
        self, variables: Any, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]], Any]:
        """The criterion over the whole batch, on all devices.

        Args:
          key: random key of a training step; None in evaluation (no augmentation, no dropout).

        Returns:
          (loss sum [], weight [], metrics as (sum, count), the model's changed collections).
        """
        images, model_key = batch["image"], None
        if key is not None:
            augment_key, model_key = jax.random.split(key)
            images = self.augmentation.images(images, augment_key, batch)
        images = self.images(images)
        outputs, changed = common.apply_model(self.model, variables, images, key=model_key)
        proxies = [outputs["proxies"]] if "proxies" in outputs else []
        total, weight = self.criterion(
            outputs["embedding"], _labels(batch), batch["mask"], *proxies
        )
        return total, weight, {"loss": (total, weight)}, changed

    def embed(self, variables: Any, images: jax.Array) -> jax.Array:
        """Pictures uint8 [B, S, S, 3] as vectors of length 1, float32 [B, D]."""
        inputs = self.images(images)
        return common.apply_model(self.model, variables, inputs, key=None)[0]["embedding"]


def _labels(batch: Batch) -> jax.Array:
    """As `metric_losses` takes them."""
    if "label" in batch:
        return batch["label"]
    return jnp.where(batch["known"] > 0, batch["tags"], pair_masks.UNKNOWN).astype(jnp.int8)


def example(config: Config, classes: LabelNames, train: bool) -> pipeline.ExampleSpec:
    """How a record becomes a row of a batch: that of a classifier, or of a tagger."""
    kind = tag if config.task.label_field == "tags" else classify
    return kind.example(config, classes, train)


def make(config: Config, classes: int) -> EmbedTask:
    """The task with its model, as the configuration says.

    Raises UsageError where a setting does not go with a loss over a whole batch.
    """
    if config.optimizer.grad_accum_steps > 1:
        raise UsageError(
            "config.optimizer.grad_accum_steps: a picture is compared with all of the batch, which "
            "cannot be computed in parts; take a smaller config.batch_size"
        )
    for name in ("mixup", "cutmix"):
        if getattr(config.augmentation, name):
            raise UsageError(f"config.augmentation.{name}: a mixed picture is of no one class")
    loss = metric.make_loss(config.task.loss, config.task.loss_kwargs)
    if config.task.label_field == "tags" and metric.is_single_class(loss):
        raise UsageError(
            f"config.task.loss = {config.task.loss!r}: it knows one class a picture, and "
            "config.task.label_field = 'tags' gives several; take proxy_anchor"
        )
    data, proxies = config.data, metric.needs_proxies(loss)
    return EmbedTask(
        models.Embedder(common.make_backbone(config), config.task.embedding_dim, classes if proxies else 0),
        criterion=loss,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        augmentation=common.augmentation(config),
        grey=data.grayscale,
    )
