"""An image encoder and a text decoder as one captioning model."""

import flax.linen as nn
import jax

from jaxtag.kernels import layers
from jaxtag.models.decoder import Decoder


class Captioner(nn.Module):
    """Any backbone with `features`, and a decoder that attends to them.

    Where their widths differ, a learned projection stands between (`memory_proj`), as
    `enc_to_dec_proj` in `transformers.VisionEncoderDecoderModel`.
    """

    encoder: nn.Module
    decoder: Decoder

    @nn.compact
    def __call__(
        self, images: jax.Array, tokens: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """images `[B, H, W, 3]`, tokens int32 `[B, K, T]` (K captions a picture).

        Gives `logits` float32 `[B, K, T, V]` (of the token after each) and `features` [B, N, D],
        what the decoder attends to. The K captions share one encoder pass.
        """
        features = self.encode(images, train)
        return {"logits": self.decoder(tokens, features, train), "features": features}

    @nn.compact
    def encode(self, images: jax.Array, train: bool = False) -> jax.Array:
        """images `[B, H, W, 3]` -> `[B, N, decoder.width]`"""
        features = self.encoder(images, train)["features"]
        features = features.reshape(features.shape[0], -1, features.shape[-1])
        if features.shape[-1] == self.decoder.width:
            return features
        project = layers.Linear((self.decoder.width,), dtype=self.decoder.dtype, name="memory_proj")
        return project(features)
