"""The task of classification: what a loss, a prediction and a metric mean."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtag import augment
from jaxtag.config.schema import Config
from jaxtag.data import pipeline, transforms
from jaxtag.data import targets as fields
from jaxtag.losses.classification import margin_loss
from jaxtag.tasks import common, tta

Batch = dict[str, jax.Array]
_CONFIDENCE_BINS = 15
# Of the squared error of a capsule network's reconstruction (Sabour et al. 2017, section 4.1).
_RECONSTRUCTION_WEIGHT = 0.0005


@dataclasses.dataclass(frozen=True)
class ClassifyTask:
    """Pure functions of (variables, batch, key).

    A batch has `image` uint8 [B, S, S, 3], `label` int32 [B] and `mask` float32 [B] (0: padding,
    or a picture that was broken).

    Attributes:
      image_size: S.
      grey: the model sees one channel, the mean of the three.
      criterion: "softmax" (cross-entropy) or "margin" (of capsule lengths).
      mirror, shift: a prediction is the mean over views of a picture (see `views`).
    """

    model: nn.Module
    classes: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: augment.Augmentation
    grey: bool = False
    criterion: str = "softmax"
    label_smoothing: float = 0.0
    mirror: bool = False
    shift: int = 0

    def init(self, key: jax.Array) -> Any:
        """Variables of the model."""
        channels = 1 if self.grey else 3
        images = jnp.zeros((1, self.image_size, self.image_size, channels), jnp.float32)
        return self.model.init(key, images)

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The model itself."""
        return self.model, ()

    def images(self, images: jax.Array) -> jax.Array:
        """Pictures [B, S, S, 3] as the model takes them, [B, S, S, C] float32."""
        return augment.normalize(images, self.mean, self.std, grey=self.grey)

    def loss(
        self, variables: Any, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]], Any]:
        """The criterion, in nats for "softmax".

        Args:
          key: random key of a training step; None in evaluation (no augmentation, no dropout).

        Returns:
          (loss of each picture [B], its weight [B], metrics as (sum, count), the model's changed
          collections).
        """
        images, targets = batch["image"], jax.nn.one_hot(batch["label"], self.classes)
        if key is None:
            images, model_key = self.images(images), None
        else:
            augment_key, mix_key, model_key = jax.random.split(key, 3)
            images = self.images(self.augmentation.images(images, augment_key, batch))
            images, targets = self.augmentation.mix(images, targets, mix_key)
        rebuilds = getattr(self.model, "reconstruct", False)
        labels = {"labels": batch["label"]} if rebuilds else {}
        outputs, changed = common.apply_model(
            self.model, variables, images, key=model_key, **labels
        )
        losses = self._losses(outputs["logits"], targets, smooth=key is not None)
        if rebuilds:
            pixels = images * jnp.asarray(self.std) + jnp.asarray(self.mean)
            error = jnp.square(outputs["reconstruction"] - pixels).sum((1, 2, 3))
            losses += _RECONSTRUCTION_WEIGHT * error
        mask = batch["mask"]
        right = (outputs["logits"].argmax(-1) == batch["label"]) * mask
        metrics = {
            "loss": ((losses * mask).sum(), mask.sum()),
            "accuracy": (right.sum(), mask.sum()),
        }
        return losses * mask, mask, metrics, changed

    def _losses(self, logits: jax.Array, targets: jax.Array, smooth: bool) -> jax.Array:
        logits = logits.astype(jnp.float32)
        if self.criterion == "margin":
            return margin_loss(logits, targets)
        if smooth and self.label_smoothing:
            targets = (1 - self.label_smoothing) * targets + self.label_smoothing / self.classes
        return -(targets * jax.nn.log_softmax(logits)).sum(-1)

    def predict(self, variables: Any, batch: Batch) -> jax.Array:
        """Probabilities float32 [B, classes]."""

        def scores(images: jax.Array) -> jax.Array:
            logits = common.apply_model(self.model, variables, images, key=None)[0]["logits"]
            logits = logits.astype(jnp.float32)
            return logits if self.criterion == "margin" else jax.nn.softmax(logits)

        images = self.images(batch["image"])
        found = tta.predict(scores, images, mirror=self.mirror, shift=self.shift)
        if self.criterion == "margin":
            return found / jnp.maximum(found.sum(-1, keepdims=True), 1e-9)
        return found

    def score(
        self, variables: Any, batch: Batch
    ) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array]]:
        """What evaluation adds up over batches, as `finish` takes it; (class, probability) [B]."""
        chances, mask = self.predict(variables, batch), batch["mask"]
        labels = batch["label"]
        own = jnp.take_along_axis(chances, labels[:, None], 1)
        rank = (chances > own).sum(-1)
        confidence, guess = chances.max(-1), chances.argmax(-1)
        right = (guess == labels) * mask
        place = jnp.clip((confidence * _CONFIDENCE_BINS).astype(jnp.int32), 0, _CONFIDENCE_BINS - 1)
        bins = jax.nn.one_hot(place, _CONFIDENCE_BINS) * mask[:, None]
        truth = jax.nn.one_hot(labels, self.classes) * mask[:, None]
        guesses = jax.nn.one_hot(guess, self.classes)
        sums = {
            "count": mask.sum(),
            "cross_entropy": (-jnp.log(jnp.maximum(own[:, 0], 1e-30)) * mask).sum(),
            "top1": right.sum(),
            "top5": ((rank < 5) * mask).sum(),
            "bins": jnp.stack([bins.sum(0), confidence @ bins, right @ bins]),
            "confusion": truth.T @ guesses,
        }
        return sums, (guess, confidence)


def finish(sums: dict[str, Any]) -> dict[str, float]:
    """Metrics from the sums of `ClassifyTask.score`.

    calibration_error: the mean gap between confidence and accuracy over 15 equal bins of the
    confidence, weighted by their counts (Guo et al. 2017, arXiv:1706.04599, section 2).
    """
    count = max(float(sums["count"]), 1e-9)
    _, confidence, right = sums["bins"]
    metrics = {name: float(sums[name]) / count for name in ("top1", "top5", "cross_entropy")}
    metrics["calibration_error"] = float(abs(confidence - right).sum()) / count
    metrics["examples"] = float(sums["count"])
    return metrics


def make(config: Config, classes: int) -> ClassifyTask:
    """The task with its model, as the configuration says."""
    data = config.data
    return ClassifyTask(
        common.make_backbone(config, num_classes=classes),
        classes=classes,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        augmentation=common.augmentation(config),
        grey=data.grayscale,
        criterion=config.task.loss,
        label_smoothing=config.task.label_smoothing,
        mirror=config.evaluation.tta_flip,
        shift=config.evaluation.tta_shift,
    )


def example(config: Config, _: Any, train: bool) -> pipeline.ExampleSpec:
    """How a record becomes a row of a batch."""
    data = config.data
    whole = data.crop_scale == (1.0, 1.0)
    if train and not whole:
        image = transforms.RandomResizedCrop(data.image_size, data.crop_scale, data.crop_ratio)
    elif whole or data.eval_crop_pct is None:
        image = transforms.Resize(data.image_size)
    else:
        image = transforms.CenterCrop(data.image_size, data.eval_crop_pct)
    return pipeline.ExampleSpec(image, {"label": fields.ClassLabel()})
