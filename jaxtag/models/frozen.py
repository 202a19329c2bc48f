"""Parts of models on a frozen backbone: a linear head, and a stand-in for the backbone."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxtag.array_types import Inputs
from jaxtag.kernels import layers


class LinearProbe(nn.Module):
    """Normalized images to `logits` float32 `[B, num_classes]` and the backbone's outputs.

    Attributes:
        backbone: any, with `pooled`, of which the logits are a linear function.
        dropout: fraction of `pooled` that the classifier does not see in training (key `dropout`).
    """

    backbone: nn.Module
    num_classes: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: Inputs, train: bool = False) -> dict[str, Array]:
        outputs = self.backbone(images, train)
        pooled = outputs["pooled"].astype(jnp.float32)
        head = layers.Linear((self.num_classes,), nn.initializers.zeros, name="head")
        return {**outputs, "logits": head(layers.Dropout(self.dropout)(pooled, train))}


class BackboneOutput(nn.Module):
    """Stands for a backbone whose output was computed before: returns it under its name.

    Attributes:
        norm_eps: of the backbone.
    """

    output: str
    norm_eps: float = 1e-5

    @nn.compact
    def __call__(self, values: Inputs, train: bool = False) -> dict[str, Array]:
        """`train` changes nothing."""
        return {self.output: jnp.asarray(values)}
