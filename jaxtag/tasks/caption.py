"""The task of captioning: what a loss, a prediction and a metric mean."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxtag import models
from jaxtag.config import Config, nearest
from jaxtag.data import augment, crops, pipeline
from jaxtag.data.text import PAD, Tokenizer
from jaxtag.errors import UsageError

Batch = dict[str, jax.Array]
_VOCABULARY_MULTIPLE = 64  # the embedding is padded, so that it splits over devices and fills tiles


@dataclasses.dataclass(frozen=True)
class CaptionTask:
    """Pure functions of (variables, batch, key).

    A batch has `image` uint8 [B, S, S, 3], `tokens` int32 [B, K, L] (K captions of a picture,
    BOS … EOS and padding) and `mask` float32 [B] (0: padding, or a picture that was broken).
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = False
    label_smoothing: float = 0.0

    def init(self, key: jax.Array, image_size: int, length: int) -> Any:
        """Variables of the model."""
        images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
        tokens = jnp.zeros((1, 1, length - 1), jnp.int32)
        return self.model.init(key, images, tokens)

    def images(self, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        """Pictures as the model takes them, [B, S, S, 3] float32; augmented if there is a key."""
        images = batch["image"]
        if key is not None:
            images = augment.augment(images, key, flip=self.flip)
        return augment.normalize(images, self.mean, self.std, jnp.float32)

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
        outputs = self.model.apply(
            variables,
            self.images(batch, augment_key),
            inputs,
            train=key is not None,
            rngs=None if key is None else {"dropout": dropout_key},
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
        changed = {name: value for name, value in variables.items() if name != "params"}
        return (losses * weights).sum((1, 2)), weights.sum((1, 2)), metrics, changed


def make(config: Config, vocab_size: int) -> CaptionTask:
    """The task with its model, as the configuration says."""
    model = config.model
    dtype = compute_dtype(model.dtype)
    scan = resolve_scan(model.scan)
    changes = {
        "depth": model.encoder_depth,
        "width": model.encoder_width,
        "heads": model.encoder_heads,
        "mlp_dim": model.encoder_width and 4 * model.encoder_width,
    }
    if model.encoder not in models.names():
        hint = nearest(model.encoder, models.names())
        raise UsageError(f"config.model.encoder = {model.encoder!r}: unknown{hint}")
    encoder = models.create(
        model.encoder,
        image_size=config.data.image_size,
        stem=model.encoder_stem,
        drop_path=model.drop_path,
        dtype=dtype,
        scan=scan,
        remat=model.remat,
        **{name: value for name, value in changes.items() if value is not None},
    )
    decoder = models.Decoder(
        vocab_size=-(-vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE,
        max_length=config.text.length,
        width=model.decoder_width,
        depth=model.decoder_depth,
        heads=model.decoder_heads,
        mlp_dim=4 * model.decoder_width,
        dropout=model.dropout,
        attention_dropout=model.dropout,
        dtype=dtype,
        scan=scan,
        remat=model.remat,
    )
    return CaptionTask(
        models.Captioner(encoder, decoder),
        mean=config.data.mean,
        std=config.data.std,
        flip=config.data.flip,
        label_smoothing=config.label_smoothing,
    )


def example(config: Config, tokenizer: Tokenizer, train: bool) -> pipeline.Example:
    """How a record becomes a row of a batch. Evaluation sees whole pictures, squashed."""
    data, text = config.data, config.text
    whole = not train or data.crop_area == (1.0, 1.0)
    image = (
        crops.Squash(data.image_size)
        if whole
        else crops.RandomCrop(data.image_size, data.crop_area, data.crop_ratio)
    )
    tokens = pipeline.CaptionTokens(
        tokenizer, text.length, per_picture=text.captions_per_image, random=train
    )
    return pipeline.Example(image, {"tokens": tokens})


def compute_dtype(name: str) -> jnp.dtype:
    """`auto` is bfloat16 where it has its own arithmetic units, else float32."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def resolve_scan(scan: bool | None) -> bool:
    """None: one compiled block for all layers, but on CPU, where unrolled layers run faster."""
    return jax.default_backend() != "cpu" if scan is None else scan
