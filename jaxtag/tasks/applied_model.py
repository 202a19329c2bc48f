"""How a task applies its model: to images, or to what a frozen backbone made of them."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtag import augment, models
from jaxtag.array_types import AnyArray
from jaxtag.config.schema import Config
from jaxtag.data.feature_table import FIELD
from jaxtag.errors import UsageError
from jaxtag.tasks import common, tta

Batch = dict[str, jax.Array]


class AppliedModel:
    """The part of a task that applies its model to batches.

    Attributes:
        config: the whole configuration.
        augmentation: of training images.
        model: of the task.
        can_freeze: whether all of the task's functions apply the model by `apply_model`, so that
            `config.model.freeze` holds for them.
    """

    can_freeze: ClassVar[bool] = False

    config: Config
    augmentation: augment.Augmentation
    model: nn.Module

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The part that `config.model.pretrained` loads, and its path among the variables."""
        return self.model, ()

    @property
    def backbone_output(self) -> str:
        """Which output of its backbone the rest of the model takes: `pooled` or `features`."""
        return "pooled"

    def normalize(self, images: AnyArray) -> jax.Array:
        """Images uint8 [B, S, S, 3] as the model takes them, float32 [B, S, S, C]."""
        data = self.config.data
        return augment.normalize(images, data.mean, data.std, grayscale=data.grayscale)

    def model_inputs(self, variables: Any, batch: Batch, key: jax.Array | None) -> jax.Array:
        """What `apply_model` takes of a batch: its images, augmented where there is a key.

        Of a frozen backbone it is the outputs, which the batch may hold in the place of images.
        """
        if FIELD in batch:
            return batch[FIELD]
        return self.encode(variables, self.model_images(batch, key))

    def model_images(self, batch: Batch, key: jax.Array | None) -> jax.Array:
        """The images of a batch as the model takes them, augmented where there is a key."""
        images: AnyArray = batch["image"]
        if key is not None:
            images = self.augmentation.images(images, key, batch)
        return self.normalize(images)

    def encode(self, variables: Any, images: jax.Array) -> jax.Array:
        """Normalized images as `apply_model` takes them: through the backbone if it is frozen."""
        if not self.config.model.freeze:
            return images
        module, path = self.backbone
        outputs: Any = module.apply(common.subtree(variables, path), images, train=False)
        return jax.lax.stop_gradient(outputs[self.backbone_output].astype(jnp.float32))

    @functools.cached_property
    def applied_model(self) -> nn.Module:
        """The model; on a frozen backbone that of the backbone's outputs, by the same variables."""
        if not self.config.model.freeze:
            return self.model
        module, [name] = self.backbone
        epsilon = getattr(module, "norm_eps", 1e-5)
        stand_in: dict[str, Any] = {name: models.BackboneOutput(self.backbone_output, epsilon)}
        return self.model.clone(**stand_in)

    def apply_model(
        self,
        variables: Any,
        inputs: AnyArray,
        *further: AnyArray,
        key: jax.Array | None,
        **fields: Any,
    ) -> tuple[dict[str, jax.Array], Any]:
        """The model's outputs of `model_inputs`, and its collections (see `common.apply_model`)."""
        return common.apply_model(
            self.applied_model, variables, inputs, *further, key=key, **fields
        )

    def predict_views(
        self, variables: Any, batch: Batch, predict: Callable[[jax.Array], jax.Array]
    ) -> jax.Array:
        """The mean of `predict` over the views that `config.evaluation` asks for (see `tta`).

        Args:
            predict: from what `apply_model` takes to arrays [B, …].

        Raises:
            UsageError: there are features of one view alone.
        """
        settings = self.config.evaluation
        if FIELD not in batch:
            return tta.predict(
                lambda images: predict(self.encode(variables, images)),
                self.normalize(batch["image"]),
                flip=settings.tta_flip,
                shift=settings.tta_shift,
            )
        if settings.tta_flip or settings.tta_shift:
            raise UsageError(
                "config.evaluation.tta_flip and tta_shift: cached features are of one view; leave "
                "them out in training, and evaluate the run with them"
            )
        return predict(batch[FIELD])
