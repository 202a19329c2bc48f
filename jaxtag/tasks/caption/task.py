"""The task of captioning: what a loss, a prediction and a metric mean."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxtag import augment, models
from jaxtag.config.schema import Config
from jaxtag.data import pipeline, transforms
from jaxtag.data import targets as fields
from jaxtag.data.tokenizer import PAD, Tokenizer
from jaxtag.tasks import common

Batch = dict[str, jax.Array]
_VOCABULARY_MULTIPLE = 64  # the embedding is padded, so that it splits over devices and fills tiles


@dataclasses.dataclass(frozen=True)
class CaptionTask:
    """Pure functions of (variables, batch, key).

    A batch has `image` uint8 [B, S, S, 3], `tokens` int32 [B, K, L] (K captions of a picture,
    BOS … EOS and padding) and `mask` float32 [B] (0: padding, or a picture that was broken).
    """

    model: nn.Module
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: augment.Augmentation
    label_smoothing: float = 0.0

    def init(self, key: jax.Array) -> Any:
        """Variables of the model."""
        images = jnp.zeros((1, self.image_size, self.image_size, 3), jnp.float32)
        tokens = jnp.zeros((1, 1, self.model.decoder.max_length - 1), jnp.int32)
        return self.model.init(key, images, tokens)

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The encoder."""
        return self.model.encoder, ("encoder",)

    def images(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """Pictures as the model takes them, [B, S, S, 3] float32; augmented if there is a key."""
        images = batch["image"]
        if key is not None:
            images = self.augmentation.images(images, key, batch)
        return augment.normalize(images, self.mean, self.std)

    def loss(
        self, variables: Any, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, dict[str, tuple[jax.Array, jax.Array]], Any]:
        """Cross-entropy of the next token (Vinyals et al. 2015, section 3), in nats.

        Args:
          key: random key of a training step; None in evaluation (no augmentation, no dropout).

        Returns:
          (sum over the tokens of each picture [B], number of tokens of each picture [B],
          metrics as (sum, count), the model's changed collections).
        """
        augment_key, dropout_key = (None, None) if key is None else jax.random.split(key)
        inputs, targets = batch["tokens"][:, :, :-1], batch["tokens"][:, :, 1:]
        images = self.images(batch, augment_key)
        outputs, changed = common.apply_model(
            self.model, variables, images, inputs, key=dropout_key
        )
        logits = outputs["logits"].astype(jnp.float32)
        weights = (targets != PAD) * batch["mask"][:, None, None]
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        losses = entropy
        if key is not None and self.label_smoothing:
            uniform = entropy + jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
            uniform -= logits.mean(-1)  # -mean(log softmax)
            losses = (1 - self.label_smoothing) * entropy + self.label_smoothing * uniform
        count = weights.sum()
        right = (logits.argmax(-1) == targets) * weights
        metrics = {
            "loss": ((losses * weights).sum(), count),
            "cross_entropy": ((entropy * weights).sum(), count),
            "token_accuracy": (right.sum(), count),
        }
        return (losses * weights).sum((1, 2)), weights.sum((1, 2)), metrics, changed


def make(config: Config, vocab_size: int) -> CaptionTask:
    """The task with its model, as the configuration says."""
    model = config.model
    encoder = common.make_backbone(config)
    decoder = models.Decoder(
        vocab_size=model.decoder_vocab_size
        or -(-vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE,
        max_length=config.task.max_length,
        width=model.decoder_width,
        depth=model.decoder_depth,
        heads=model.decoder_heads,
        mlp_dim=4 * model.decoder_width,
        dropout=model.dropout,
        attention_dropout=model.dropout,
        dtype=common.compute_dtype(model.dtype),
        scan=common.resolve_scan(model.scan),
        remat=common.resolve_remat(model),
    )
    return CaptionTask(
        models.Captioner(encoder, decoder),
        image_size=config.data.image_size,
        mean=config.data.mean,
        std=config.data.std,
        augmentation=common.augmentation(config),
        label_smoothing=config.task.label_smoothing,
    )


def example(config: Config, tokenizer: Tokenizer, train: bool) -> pipeline.ExampleSpec:
    """How a record becomes a row of a batch. Evaluation sees whole pictures, squashed."""
    data, text = config.data, config.task
    whole = not train or data.crop_scale == (1.0, 1.0)
    image = (
        transforms.Resize(data.image_size)
        if whole
        else transforms.RandomResizedCrop(data.image_size, data.crop_scale, data.crop_ratio)
    )
    tokens = fields.CaptionTokens(
        tokenizer, text.length, per_picture=text.captions_per_image, random=train
    )
    return pipeline.ExampleSpec(image, {"tokens": tokens})
