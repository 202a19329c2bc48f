"""Single-label classification: model, loss, predictions and what evaluation adds up."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxtag.array_types import AnyArray
from jaxtag.data import targets
from jaxtag.distributed import mesh as meshes
from jaxtag.losses import classification
from jaxtag.tasks import common
from jaxtag.tasks.base import (
    Batch,
    Evaluation,
    EvaluationData,
    EvaluationStep,
    LossOutput,
    Predict,
    Row,
    Task,
    top_rows,
)
from jaxtag.tasks.classify.config import ClassifyConfig
from jaxtag.tasks.classify.evaluation import ClassEvaluation, classification_metrics

_CONFIDENCE_BINS = 15
# Weight of the squared error of a capsule network's reconstruction (Sabour et al. 2017, 4.1).
_RECONSTRUCTION_WEIGHT = 0.0005
_TOP_CLASSES = 5  # in a row of predictions


class ClassifyTask(Task[ClassifyConfig]):
    """Classification of images into one class each.

    A batch holds `label` int32 [B]. A prediction is the mean over views of an image where
    `config.evaluation.tta_flip` or `tta_shift` say so (see `tta`).
    """

    config_class = ClassifyConfig
    headline_metrics = ("top1", "top5", "cross_entropy", "calibration_error")
    contact_sheet = "classes.png"
    can_freeze = True

    def __init__(self, config: Any, vocabulary: Any, model: nn.Module | None = None):
        super().__init__(config, vocabulary, model)
        self.num_classes = len(vocabulary)
        self._loss = classification.make_loss(self.settings.loss, self.settings.loss_kwargs)

    def make_model(self) -> nn.Module:
        return common.make_classifier(self.config, len(self.vocabulary))

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The model itself, or the frozen part of it."""
        return common.classifier_backbone(self.model)

    def targets(self, train: bool) -> dict[str, targets.Target]:
        del train
        return {"label": targets.ClassLabel(self.label_names)}

    def loss(self, variables: Any, batch: Batch, key: jax.Array | None) -> LossOutput:
        """The configured loss of each image [B]; in nats for "softmax"."""
        labels: AnyArray = jax.nn.one_hot(batch["label"], self.num_classes)
        augment_key, mix_key, model_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        inputs: AnyArray = self.model_inputs(variables, batch, augment_key)
        if mix_key is not None:
            inputs, labels = self.augmentation.mix(inputs, labels, mix_key)
        reconstructs = getattr(self.model, "reconstruct", False)
        fields = {"labels": batch["label"]} if reconstructs else {}
        outputs, changed = self.apply_model(variables, inputs, key=model_key, **fields)
        smoothing = 0.0 if key is None else self.settings.label_smoothing
        logits = outputs["logits"].astype(jnp.float32)
        losses = self._loss(logits, jnp.asarray(labels), smoothing)
        if reconstructs:
            data = self.config.data
            pixels = inputs * jnp.asarray(data.std) + jnp.asarray(data.mean)
            error = jnp.square(outputs["reconstruction"] - pixels).sum((1, 2, 3))
            losses += _RECONSTRUCTION_WEIGHT * error
        mask = batch["mask"]
        correct = (outputs["logits"].argmax(-1) == batch["label"]) * mask
        metrics = {
            "loss": ((losses * mask).sum(), mask.sum()),
            "accuracy": (correct.sum(), mask.sum()),
        }
        return LossOutput(losses * mask, mask, metrics, changed)

    def predict(self, variables: Any, batch: Batch) -> jax.Array:
        """Probabilities float32 [B, C]."""
        is_margin = self.settings.loss == "margin"

        def scores(inputs: jax.Array) -> jax.Array:
            logits = self.apply_model(variables, inputs, key=None)[0]["logits"]
            logits = logits.astype(jnp.float32)
            return logits if is_margin else jax.nn.softmax(logits)

        mean = self.predict_views(variables, batch, scores)
        if is_margin:
            return mean / jnp.maximum(mean.sum(-1, keepdims=True), 1e-9)
        return mean

    def make_predict(self) -> Predict:
        predict = jax.jit(self.predict)
        return lambda variables, batch, key: {"probabilities": predict(variables, batch)}

    def rows(self, outputs: dict[str, np.ndarray], top_k: int | None = None) -> list[Row]:
        """The likeliest classes and their probabilities; 5 by default."""
        names, count = self.vocabulary.names, top_k or _TOP_CLASSES
        return [{"tags": top_rows(p, names, count)} for p in outputs["probabilities"]]

    def score(
        self, variables: Any, batch: Batch
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """What evaluation adds up over batches, and each image's class and its probability."""
        probabilities, mask = self.predict(variables, batch), batch["mask"]
        labels = batch["label"]
        own = jnp.take_along_axis(probabilities, labels[:, None], 1)
        rank = (probabilities > own).sum(-1)
        confidence, prediction = probabilities.max(-1), probabilities.argmax(-1)
        correct = (prediction == labels) * mask
        bin_index = (confidence * _CONFIDENCE_BINS).astype(jnp.int32)
        bin_index = jnp.clip(bin_index, 0, _CONFIDENCE_BINS - 1)
        bins = jax.nn.one_hot(bin_index, _CONFIDENCE_BINS) * mask[:, None]
        truth = jax.nn.one_hot(labels, self.num_classes) * mask[:, None]
        predictions = jax.nn.one_hot(prediction, self.num_classes)
        sums = {
            "count": mask.sum(),
            "cross_entropy": (-jnp.log(jnp.maximum(own[:, 0], 1e-30)) * mask).sum(),
            "top1": correct.sum(),
            "top5": ((rank < 5) * mask).sum(),
            "bins": jnp.stack([bins.sum(0), confidence @ bins, correct @ bins]),
            "confusion": truth.T @ predictions,
        }
        rows = {"prediction": prediction, "confidence": confidence}
        return sums, {**rows, "scores": probabilities} if self.all_scores else rows

    def make_evaluation_step(self, mesh: Mesh) -> EvaluationStep:
        score = jax.jit(meshes.with_mesh(mesh, self.score), out_shardings=meshes.replicated(mesh))

        def step(variables: Any, batch: Batch, key: jax.Array) -> Any:
            del key
            sums, rows = score(variables, batch)
            return sums, {**rows, "label": batch["label"]}

        return step

    def evaluate(self, data: EvaluationData) -> Evaluation:
        return ClassEvaluation(classification_metrics(data.sums), data, self.vocabulary)
