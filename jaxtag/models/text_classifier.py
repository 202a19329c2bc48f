"""A classifier whose classes are texts: an image encoder and a vector for each class."""

import flax.linen as nn
from jaxtyping import Array

from jaxtag.array_types import Images
from jaxtag.models.image_text import ImageText


class TextClassifier(nn.Module):
    """Normalized images to `logits` float32 `[B, num_classes]`, scaled similarities to texts.

    Attributes:
        image_text: embeds the images, and has embedded the texts.
        num_classes: rows of the parameter `class_embeddings` [num_classes, embed_dim].
    """

    image_text: ImageText
    num_classes: int

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> dict[str, Array]:
        shape = (self.num_classes, self.image_text.embed_dim)
        classes = self.param("class_embeddings", nn.initializers.zeros, shape)
        vectors = self.image_text.embed_images(images, train)
        return {"logits": self.image_text.logits(vectors, classes), "pooled": vectors}
