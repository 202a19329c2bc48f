"""Multi-label tagging: any number of tags per image."""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from jaxtag import models
from jaxtag.array_types import AnyArray
from jaxtag.config.schema import Config
from jaxtag.data import sources, targets
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.losses import multilabel
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
from jaxtag.tasks.tag.calibration import (
    TagCalibration,
    calibrated_scores,
    calibration_path,
    fit_calibration,
)
from jaxtag.tasks.tag.config import TagConfig
from jaxtag.tasks.tag.evaluation import TagEvaluation, select_tags

_MAX_TAGS = 30  # in a row of predictions


class TagTask(Task[TagConfig]):
    """Multi-label tagging.

    A batch holds `tags` uint8 [B, T] (1: present) and `known` uint8 [B, T] (0: unlabeled). A
    prediction is the mean over views of an image where `config.evaluation.tta_flip` or
    `tta_shift` say so (see `tta`).

    Attributes:
        calibration: from logits to scores and tags; None before it was fitted.
        weighted: whether the presence of a tag weighs `positive_weight` [T], of the collection
            `tag_weights`.
    """

    config_class = TagConfig
    headline_metrics = ("map", "f1@5", "n+", "micro_f1", "macro_f1")
    vocabulary_file = "tags.json"
    contact_sheet = "tags.png"
    selects_tags = True
    can_freeze = True

    def __init__(self, config: Config, vocabulary: Any, model: nn.Module | None = None):
        super().__init__(config, vocabulary, model)
        self.num_tags = len(vocabulary)
        self.weighted = self.settings.max_pos_weight is not None
        self.calibration: TagCalibration | None = None
        self._loss = multilabel.make_loss(self.settings.loss, self.settings.loss_kwargs)

    @classmethod
    def label_field(cls, config: Config) -> str:
        return "tags"

    def make_model(self) -> nn.Module:
        config, num_tags = self.config, len(self.vocabulary)
        if self.settings.head == "linear":
            return common.make_classifier(config, num_tags)
        settings = config.model
        return models.MLDecoder(
            common.make_backbone(config),
            tags=num_tags,
            groups=self.settings.num_queries,
            width=settings.decoder_width,
            heads=settings.decoder_heads,
            dropout=settings.dropout,
            dtype=common.compute_dtype(settings.dtype),
        )

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The model itself, the frozen part of it, or what its queries attend to."""
        if isinstance(self.model, models.MLDecoder):
            return self.model.backbone, ("backbone",)
        return common.classifier_backbone(self.model)

    @property
    def backbone_output(self) -> str:
        """Queries attend to `features`, a linear head takes `pooled`."""
        return "pooled" if self.settings.head == "linear" else "features"

    def init(self, key: jax.Array) -> Any:
        """Fresh variables of the model, with weights of 1 where there are any."""
        variables = super().init(key)
        if not self.weighted:
            return variables
        return {**variables, "tag_weights": {"positive_weight": jnp.ones(self.num_tags)}}

    def collections_from_data(self, source: Source) -> dict[str, Any]:
        """The weights of the tags' presence by their frequency in training."""
        limit = self.settings.max_pos_weight
        if limit is None:
            return {}
        counts = sources.tag_counts(source, self.label_names or self.num_tags)
        weights = multilabel.positive_weights(counts, len(source), limit)
        return {"tag_weights": {"positive_weight": jnp.asarray(weights)}}

    def targets(self, train: bool) -> dict[str, targets.Target]:
        del train
        return {
            "tags": targets.MultiHot("tags", self.vocabulary),
            "known": targets.MultiHot("unknown_tags", self.vocabulary, inverted=True),
        }

    def loss(self, variables: Any, batch: Batch, key: jax.Array | None) -> LossOutput:
        """The configured loss of each image [B], summed over the tags that are known.

        A tag of a mixed image is known where it is known of both.
        """
        tags, unknown = batch["tags"].astype(jnp.float32), 1.0 - batch["known"]
        augment_key, mix_key, model_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        inputs: AnyArray = self.model_inputs(variables, batch, augment_key)
        if mix_key is not None:
            labels: AnyArray = jnp.concatenate([tags, unknown], -1)
            inputs, labels = self.augmentation.mix(inputs, labels, mix_key)
            tags, unknown = jnp.split(labels, 2, -1)
            smoothing = self.settings.label_smoothing
            tags = (1 - smoothing) * tags + smoothing / 2
        outputs, changed = self.apply_model(variables, inputs, key=model_key)
        logits = outputs["logits"].astype(jnp.float32)
        present, absent = self._loss(logits)
        if self.weighted:
            present *= variables["tag_weights"]["positive_weight"]
        losses = jnp.where(unknown > 0, 0.0, tags * present + (1 - tags) * absent).sum(-1)
        mask = batch["mask"]
        top = jnp.take_along_axis(batch["tags"], logits.argmax(-1)[:, None], 1)[:, 0] * mask
        metrics = {
            "loss": ((losses * mask).sum(), mask.sum()),
            "precision@1": (top.sum(), mask.sum()),
        }
        return LossOutput(losses * mask, mask, metrics, changed)

    def logits(self, variables: Any, batch: Batch) -> jax.Array:
        """Logits float32 [B, T] of the images of a batch."""

        def logits(inputs: jax.Array) -> jax.Array:
            outputs, _ = self.apply_model(variables, inputs, key=None)
            return outputs["logits"].astype(jnp.float32)

        return self.predict_views(variables, batch, logits)

    def predict(self, variables: Any, batch: Batch) -> jax.Array:
        """Scores float32 [B, T], calibrated where a calibration was fitted."""
        calibration = self.calibration or TagCalibration.identity(self.num_tags)
        logits = self.logits(variables, batch)
        return jax.nn.sigmoid(calibration.scale * logits + calibration.shift)

    def make_predict(self) -> Predict:
        if self.calibration is None:
            logging.warning("no thresholds were fitted, 0.5 is used: jaxtag.evaluate fits them")
        predict = jax.jit(self.predict)
        return lambda variables, batch, key: {"scores": predict(variables, batch)}

    def rows(self, outputs: dict[str, np.ndarray], top_k: int | None = None) -> list[Row]:
        """The tags whose scores reach their thresholds, at least one and at most 30."""
        if top_k is not None:
            return [{"tags": top_rows(s, self.vocabulary.names, top_k)} for s in outputs["scores"]]
        names, rows = self.vocabulary.names, []
        calibration = self.calibration or TagCalibration.identity(self.num_tags)
        for scores in outputs["scores"]:
            tags = select_tags(scores, calibration, _MAX_TAGS)
            rows.append(
                {"tags": [{"tag": names[i], "score": round(float(scores[i]), 4)} for i in tags]}
            )
        return rows

    def load_artifacts(self, workdir: Path, step: int) -> None:
        """Reads the calibration of a checkpoint, where it was fitted."""
        path = calibration_path(workdir, step)
        if path.exists():
            self.calibration = TagCalibration.load(path, self.vocabulary.names)

    def make_evaluation_step(self, mesh: Mesh) -> EvaluationStep:
        logits = jax.jit(meshes.with_mesh(mesh, self.logits), out_shardings=meshes.replicated(mesh))

        def step(variables: Any, batch: Batch, key: jax.Array) -> Any:
            del key
            rows = {"logits": logits(variables, batch)}
            return {}, {**rows, "tags": batch["tags"], "known": batch["known"]}

        return step

    def evaluate(self, data: EvaluationData) -> Evaluation:
        """Scores and metrics; without a calibration one is fitted, on the evaluation split."""
        logits = data.rows["logits"]
        tags, known = (data.rows[name].astype(bool) for name in ("tags", "known"))
        calibration, fitted = self.calibration, False
        if calibration is None:
            fitted = data.split == self.config.data.evaluation_split
            if fitted:
                calibration = fit_calibration(logits, tags, known)
            else:
                logging.warning(
                    "no thresholds were fitted for this checkpoint, 0.5 is used: evaluate it on "
                    "%r first",
                    self.config.data.evaluation_split,
                )
                calibration = TagCalibration.identity(self.num_tags)
        scores = calibrated_scores(logits, calibration.scale, calibration.shift)
        data = dataclasses.replace(data, rows={"scores": scores, "tags": tags, "known": known})
        return TagEvaluation(data, calibration, fitted, self.vocabulary)
