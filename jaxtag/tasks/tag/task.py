"""The task of multi-label tagging: any number of tags a picture."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtag import augment, models
from jaxtag.config.schema import Config
from jaxtag.data import pipeline, targets
from jaxtag.data.labels import LabelNames
from jaxtag.losses import multilabel
from jaxtag.tasks import common, tta
from jaxtag.tasks.classify import task as classify
from jaxtag.tasks.tag.calibration import TagCalibration

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class TagTask:
    """Pure functions of (variables, batch, key).

    A batch has `image` uint8 [B, S, S, 3], `tags` uint8 [B, T] (1: present), `known` uint8 [B, T]
    (0: whether it is present is not known) and `mask` float32 [B] (0: padding, or a picture that
    was broken).

    Attributes:
      tags: T.
      criterion: logits → costs of each tag, as `tag_losses.make` makes it.
      image_size: S.
      weighted: presence weighs `positive_weight` [T] of the collection `tag_weights`.
      grey: the model sees one channel, the mean of the three.
      mirror, shift: a prediction is the mean over views of a picture (see `views`).
      decisions: None before they were chosen.
    """

    model: nn.Module
    tags: int
    criterion: Callable[[jax.Array], multilabel.Costs]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: augment.Augmentation
    label_smoothing: float = 0.0
    weighted: bool = False
    grey: bool = False
    mirror: bool = False
    shift: int = 0
    decisions: TagCalibration | None = None

    def init(self, key: jax.Array) -> Any:
        """Variables of the model, with weights of 1 where there are any."""
        channels = 1 if self.grey else 3
        images = jnp.zeros((1, self.image_size, self.image_size, channels), jnp.float32)
        variables = self.model.init(key, images)
        if not self.weighted:
            return variables
        return {**variables, "tag_weights": {"positive_weight": jnp.ones(self.tags)}}

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The model itself, or what its queries attend to."""
        if isinstance(self.model, models.MLDecoder):
            return self.model.backbone, ("backbone",)
        return self.model, ()

    def images(self, images: jax.Array) -> jax.Array:
        """Pictures [B, S, S, 3] as the model takes them, [B, S, S, C] float32."""
        return augment.normalize(images, self.mean, self.std, grey=self.grey)

    def loss(
        self, variables: Any, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]], Any]:
        """The criterion, summed over the tags that are known.

        A tag of a mixed picture is known where it is known of both.

        Args:
          key: random key of a training step; None in evaluation (no augmentation, no dropout).

        Returns:
          (loss of each picture [B], its weight [B], metrics as (sum, count), the model's changed
          collections).
        """
        images, tags = batch["image"], batch["tags"].astype(jnp.float32)
        unknown, model_key = 1.0 - batch["known"], None
        if key is None:
            images = self.images(images)
        else:
            augment_key, mix_key, model_key = jax.random.split(key, 3)
            images = self.images(self.augmentation.images(images, augment_key, batch))
            labels = jnp.concatenate([tags, unknown], -1)
            images, labels = self.augmentation.mix(images, labels, mix_key)
            tags, unknown = jnp.split(labels, 2, -1)
            tags = (1 - self.label_smoothing) * tags + self.label_smoothing / 2
        outputs, changed = common.apply_model(self.model, variables, images, key=model_key)
        logits = outputs["logits"].astype(jnp.float32)
        present, absent = self.criterion(logits)
        if self.weighted:
            present *= variables["tag_weights"]["positive_weight"]
        losses = jnp.where(unknown > 0, 0.0, tags * present + (1 - tags) * absent).sum(-1)
        mask = batch["mask"]
        right = jnp.take_along_axis(batch["tags"], logits.argmax(-1)[:, None], 1)[:, 0] * mask
        metrics = {
            "loss": ((losses * mask).sum(), mask.sum()),
            "precision@1": (right.sum(), mask.sum()),
        }
        return losses * mask, mask, metrics, changed

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """Of pictures uint8 [B, S, S, 3]: float32 [B, T]."""

        def logits(images: jax.Array) -> jax.Array:
            outputs, _ = common.apply_model(self.model, variables, images, key=None)
            return outputs["logits"].astype(jnp.float32)

        return tta.predict(logits, self.images(images), mirror=self.mirror, shift=self.shift)

    def predict(self, variables: Any, batch: Batch) -> jax.Array:
        """Scores float32 [B, T], calibrated where `decisions` were chosen."""
        decisions = self.decisions or TagCalibration.plain(self.tags)
        logits = self.logits(variables, batch["image"])
        return jax.nn.sigmoid(decisions.scale * logits + decisions.shift)


def make(config: Config, tags: int) -> TagTask:
    """The task with its model, as the configuration says."""
    data, settings = config.data, config.tag
    return TagTask(
        _model(config, tags),
        tags=tags,
        criterion=multilabel.make_loss(config.task.loss, dict(settings.arguments)),
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        augmentation=common.augmentation(config),
        label_smoothing=config.task.label_smoothing,
        weighted=settings.max_pos_weight is not None,
        grey=data.grayscale,
        mirror=config.evaluation.tta_flip,
        shift=config.evaluation.tta_shift,
    )


def _model(config: Config, tags: int) -> nn.Module:
    if config.task.head == "linear":
        return common.make_backbone(config, num_classes=tags)
    settings = config.model
    return models.MLDecoder(
        common.make_backbone(config),
        tags=tags,
        groups=config.task.num_queries,
        width=settings.decoder_width,
        heads=settings.decoder_heads,
        dropout=settings.dropout,
        dtype=common.compute_dtype(settings.dtype),
    )


def example(config: Config, classes: LabelNames, train: bool) -> pipeline.ExampleSpec:
    """How a record becomes a row of a batch."""
    marks = {
        "tags": targets.MultiHot("tags", classes),
        "known": targets.MultiHot("unknown_tags", classes, mark=0),
    }
    return pipeline.ExampleSpec(classify.example(config, classes, train).image, marks)
