"""An image encoder and a text encoder whose embeddings meet in one space (CLIP, SigLIP).

With the same weights it computes what `transformers.CLIPModel` and `SiglipModel` compute.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtag.array_types import AnyArray, Inputs
from jaxtag.kernels import layers
from jaxtag.models.embedder import l2_normalize
from jaxtag.models.text_encoder import TextEncoder


class ImageText(nn.Module):
    """Images and texts to unit vectors of one space, and how alike they are.

    Attributes:
        image_encoder: any backbone, with `pooled`.
        embed_dim: the size of the embeddings.
        image_projection: a linear layer from `pooled` to the embedding; without it (SigLIP, whose
            attention-pooling head ends the image encoder) the widths must be equal.
        projection_bias: the projections have biases (SigLIP's text projection has).
        init_logit_scale: at the start; the parameter is its logarithm. CLIP: 1 / 0.07, SigLIP: 10.
        init_logit_bias: at the start (SigLIP: -10); without it the logits have none.
        dropout: fraction of the image encoder's `pooled` that its projection does not see in
            training (key `dropout`).
    """

    image_encoder: nn.Module
    text_encoder: TextEncoder
    embed_dim: int
    image_projection: bool = True
    projection_bias: bool = False
    init_logit_scale: float = 1 / 0.07
    init_logit_bias: float | None = None
    dropout: float = 0.0

    def setup(self) -> None:
        projection = partial(layers.Linear, (self.embed_dim,), use_bias=self.projection_bias)
        if self.image_projection:
            self.project_image = projection()
        self.project_text = projection()
        self.pooled_dropout = layers.Dropout(self.dropout)
        scale = nn.initializers.constant(math.log(self.init_logit_scale))
        self.logit_scale = self.param("logit_scale", scale, ())
        if self.init_logit_bias is not None:
            bias = nn.initializers.constant(self.init_logit_bias)
            self.logit_bias = self.param("logit_bias", bias, ())

    def __call__(
        self, images: Inputs, tokens: Int[AnyArray, "T L"], train: bool = False
    ) -> dict[str, Array]:
        """`image_embedding` [B, D], `text_embedding` [T, D] and `logits` [B, T], float32."""
        image = self.embed_images(images, train)
        text = self.embed_texts(tokens, train)
        logits = self.logits(image, text)
        return {"image_embedding": image, "text_embedding": text, "logits": logits}

    def embed_images(self, images: Inputs, train: bool = False) -> Float[Array, "B D"]:
        """Unit vectors of images, float32."""
        pooled = self.image_encoder(images, train)["pooled"].astype(jnp.float32)
        pooled = self.pooled_dropout(pooled, train)
        return l2_normalize(self.project_image(pooled) if self.image_projection else pooled)

    def embed_texts(self, tokens: Int[AnyArray, "T L"], train: bool = False) -> Float[Array, "T D"]:
        """Unit vectors of texts, float32."""
        pooled = self.text_encoder(tokens, train)["pooled"].astype(jnp.float32)
        return l2_normalize(self.project_text(pooled))

    def logits(
        self, image: Float[AnyArray, "B D"], text: Float[AnyArray, "T D"]
    ) -> Float[Array, "B T"]:
        """Scaled similarities of embeddings.

        Over the texts their softmax is CLIP's probability of each text; their sigmoid is SigLIP's.
        """
        similarity = jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)
        logits = similarity * jnp.exp(self.logit_scale)
        return logits if self.init_logit_bias is None else logits + self.logit_bias
