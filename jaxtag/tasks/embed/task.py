"""Deep metric learning: images that share a class, or a tag, become neighboring vectors."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxtag import models
from jaxtag.config.schema import Config
from jaxtag.data import samplers, sources, targets
from jaxtag.data.sources import Source
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError
from jaxtag.losses import metric
from jaxtag.losses.metric import pair_masks
from jaxtag.metrics import retrieval
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
)
from jaxtag.tasks.embed.config import EmbedConfig
from jaxtag.tasks.embed.evaluation import EmbeddingEvaluation


class EmbedTask(Task[EmbedConfig]):
    """Deep metric learning with any backbone and a loss over the whole batch.

    A batch holds `label` int32 [B], or `tags` and `known` uint8 [B, T] as TagTask's.
    """

    config_class = EmbedConfig
    headline_metrics = ("map@r", "recall@1", "r_precision", "nmi")
    contact_sheet = "neighbours.png"
    loss_per_example = False
    unseen_labels = True
    can_freeze = True

    def __init__(self, config: Config, vocabulary: Any, model: nn.Module | None = None):
        settings = self.section(config)
        self._loss = metric.make_loss(settings.loss, settings.loss_kwargs)
        if settings.label_field == "tags" and metric.is_single_class(self._loss):
            raise UsageError(
                f"config.task.loss = {settings.loss!r}: it takes one class per image, and "
                "config.task.label_field = 'tags' gives several; take proxy_anchor"
            )
        super().__init__(config, vocabulary, model)

    @classmethod
    def label_field(cls, config: Config) -> str:
        return cls.section(config).label_field

    def make_model(self) -> nn.Module:
        settings = self.settings
        proxies = len(self.vocabulary) if metric.needs_proxies(self._loss) else 0
        return models.Embedder(common.make_backbone(self.config), settings.embedding_dim, proxies)

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """What the embedding is a linear function of."""
        return self.model.backbone, ("backbone",)

    def targets(self, train: bool) -> dict[str, targets.Target]:
        del train
        if self.settings.label_field == "label":
            return {"label": targets.ClassLabel(self.label_names)}
        return {
            "tags": targets.MultiHot("tags", self.vocabulary),
            "known": targets.MultiHot("unknown_tags", self.vocabulary, inverted=True),
        }

    def make_sampler(self, source: Source) -> Callable[[int], np.ndarray]:
        """Batches of as many images of each of their classes."""
        return samplers.ClassBalancedSampler(
            sources.indices_by_class(source, self.settings.label_field),
            batch_size=self.config.batch_size,
            samples_per_class=self.settings.samples_per_class,
            seed=self.config.seed,
        )

    def loss(self, variables: Any, batch: Batch, key: jax.Array | None) -> LossOutput:
        """The configured loss over the whole batch, on all devices: loss and weight are []."""
        augment_key, model_key = (None, None) if key is None else jax.random.split(key)
        inputs = self.model_inputs(variables, batch, augment_key)
        outputs, changed = self.apply_model(variables, inputs, key=model_key)
        proxies = [outputs["proxies"]] if "proxies" in outputs else []
        total, weight = self._loss(outputs["embedding"], _labels(batch), batch["mask"], *proxies)
        return LossOutput(total, weight, {"loss": (total, weight)}, changed)

    def embed(self, variables: Any, images: jax.Array) -> jax.Array:
        """Images uint8 [B, S, S, 3] as vectors of length 1, float32 [B, D]."""
        return self.embed_batch(variables, {"image": images})

    def embed_batch(self, variables: Any, batch: Batch) -> jax.Array:
        """The images of a batch, or their features, as vectors of length 1, float32 [B, D]."""
        inputs = self.model_inputs(variables, batch, None)
        return self.apply_model(variables, inputs, key=None)[0]["embedding"]

    def make_predict(self) -> Predict:
        embed = jax.jit(self.embed_batch)
        return lambda variables, batch, key: {"embedding": embed(variables, batch)}

    def rows(self, outputs: dict[str, np.ndarray], top_k: int | None = None) -> list[Row]:
        """The vector of each image."""
        del top_k
        return [
            {"embedding": [round(float(x), 6) for x in vector]} for vector in outputs["embedding"]
        ]

    def make_evaluation_step(self, mesh: Mesh) -> EvaluationStep:
        embed = jax.jit(
            meshes.with_mesh(mesh, self.embed_batch), out_shardings=meshes.replicated(mesh)
        )
        field = self.settings.label_field

        def step(variables: Any, batch: Batch, key: jax.Array) -> Any:
            del key
            return {}, {"embedding": embed(variables, batch), "label": batch[field]}

        return step

    def evaluate(self, data: EvaluationData) -> Evaluation:
        label = data.rows["label"]
        if label.ndim > 1:
            data = dataclasses.replace(data, rows={**data.rows, "label": label.astype(bool)})
        metrics = retrieval.retrieval_metrics(
            data.rows["embedding"], data.rows["label"], self.config.seed
        )
        return EmbeddingEvaluation(metrics, data, self.config, self.vocabulary)


def _labels(batch: Batch) -> jax.Array:
    """Labels as `losses.metric` takes them."""
    if "label" in batch:
        return batch["label"]
    return jnp.where(batch["known"] > 0, batch["tags"], pair_masks.UNKNOWN).astype(jnp.int8)
