"""Matching images and texts: an image and its texts become neighboring vectors."""

from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from jaxtag import models, registry
from jaxtag.array_types import AnyArray
from jaxtag.config.schema import Config
from jaxtag.data import targets, transforms
from jaxtag.data.sources import Source
from jaxtag.data.tokenizer import EOS, PAD, Tokenizer
from jaxtag.distributed import mesh as meshes
from jaxtag.losses import contrastive
from jaxtag.tasks import common, texts
from jaxtag.tasks.base import (
    Batch,
    Evaluation,
    EvaluationData,
    EvaluationStep,
    LossOutput,
    Predict,
    Row,
)
from jaxtag.tasks.match import pretrained
from jaxtag.tasks.match.config import MatchConfig
from jaxtag.tasks.match.evaluation import MatchEvaluation, match_metrics

_LOSS = "siglip"  # where the configuration names none
_SIGLIP_SCALE, _SIGLIP_BIAS = 10.0, -10.0  # at the start (arXiv:2303.15343, section 3.2)
_CLIP_SCALE = 1 / 0.07


class MatchTask(texts.TextTask[MatchConfig]):
    """Contrastive learning of an image encoder and a text encoder (CLIP, SigLIP, LiT).

    A batch holds `tokens` int32 [B, K, L]: K captions of an image, BOS … EOS and padding; one in
    training, drawn anew in each step.
    """

    config_class = MatchConfig
    headline_metrics = ("mean_recall", "text_to_image_recall@10", "image_to_text_recall@10")
    contact_sheet = "texts.png"
    loss_per_example = False
    can_freeze = True

    def __init__(self, config: Config, vocabulary: Any, model: nn.Module | None = None):
        settings = self.section(config)
        self._loss = contrastive.make_loss(settings.loss or _LOSS, settings.loss_kwargs)
        super().__init__(config, vocabulary, model)

    @classmethod
    def with_pretrained(cls, config: Config, old: Config | None = None) -> Config:
        return pretrained.read_config(config, old)

    @property
    def pretrained(self) -> str | None:
        return self.settings.pretrained

    @classmethod
    def build_vocabulary(cls, config: Config, source: Source) -> Tokenizer:
        """The tokenizer of the model that the run starts from, else one of the captions."""
        settings = cls.section(config)
        if settings.pretrained is None:
            return super().build_vocabulary(config, source)
        tokenizer = pretrained.read_tokenizer(settings.pretrained)
        texts.warn_of_cut(tokenizer, texts.captions_of(source), settings.max_length)
        return tokenizer

    def make_model(self) -> nn.Module:
        settings, model = self.settings, self.config.model
        kwargs = settings.image_text_kwargs
        registry.check_kwargs(models.ImageText, kwargs, "config.task.image_text_kwargs")
        is_sigmoid = (settings.loss or _LOSS) == "siglip"
        fields: dict[str, Any] = {
            "init_logit_scale": _SIGLIP_SCALE if is_sigmoid else _CLIP_SCALE,
            "init_logit_bias": _SIGLIP_BIAS if is_sigmoid else None,
            "dropout": model.dropout if model.freeze else 0.0,
            **kwargs,
        }
        return models.ImageText(
            common.make_backbone(self.config),
            self._make_text_encoder(),
            settings.embedding_dim,
            **fields,
        )

    def _make_text_encoder(self) -> models.TextEncoder:
        settings, model = self.settings, self.config.model
        kwargs = settings.text_kwargs
        registry.check_kwargs(models.TextEncoder, kwargs, "config.task.text_kwargs")
        fields: dict[str, Any] = {
            "vocab_size": texts.padded_size(self.vocabulary),
            "mlp_dim": 4 * settings.text_width,
            "eos_id": getattr(self.vocabulary, "eos_id", EOS),
            "dropout": model.dropout,
            **kwargs,
        }
        return models.TextEncoder(
            max_length=settings.max_length,
            width=settings.text_width,
            depth=settings.text_depth,
            heads=settings.text_heads,
            pool=settings.text_pool,
            dtype=common.compute_dtype(model.dtype),
            scan=common.resolve_scan(model.scan),
            remat=common.resolve_remat(model),
            **fields,
        )

    @property
    def image_text(self) -> models.ImageText:
        """The model, as the type that it is of."""
        return cast(models.ImageText, self.model)

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The image encoder."""
        return self.image_text.image_encoder, ("image_encoder",)

    def init(self, key: jax.Array) -> Any:
        size = self.config.data.image_size
        images = jnp.zeros((1, size, size, self.channels), jnp.float32)
        tokens = jnp.zeros((1, self.settings.max_length), jnp.int32)
        return self.model.init(key, images, tokens)

    def image_transform(self, train: bool) -> transforms.ImageTransform:
        """Evaluation sees whole images, squashed: a crop may lose what a caption names.

        A run that starts from a published model evaluates as its files prepare images.
        """
        data = self.config.data
        if not train and self.settings.pretrained is not None:
            return super().image_transform(train)
        if not train or data.crop_scale == (1.0, 1.0):
            return transforms.Resize(data.image_size)
        return transforms.RandomResizedCrop(data.image_size, data.crop_scale, data.crop_ratio)

    def targets(self, train: bool) -> dict[str, targets.Target]:
        text = self.settings
        count = 1 if train else text.evaluation_captions
        tokens = targets.CaptionTokens(
            self.vocabulary, text.max_length, captions_per_image=count, random=train
        )
        return {"tokens": tokens}

    def loss(self, variables: Any, batch: Batch, key: jax.Array | None) -> LossOutput:
        """The configured loss over the whole batch, on all devices: loss and weight are []."""
        augment_key, text_key, model_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        inputs = self.model_inputs(variables, batch, augment_key)
        tokens = batch["tokens"][:, 0]
        mask = batch["mask"] * _is_text(tokens)
        if text_key is not None:
            tokens, mask = self._drop(tokens, mask, text_key)
        outputs, changed = self.apply_model(variables, inputs, tokens, key=model_key)
        params = variables["params"]
        total, weight = self._loss(
            outputs["image_embedding"],
            outputs["text_embedding"],
            mask,
            params["logit_scale"],
            params.get("logit_bias", jnp.zeros(())),
        )
        one = jnp.ones(())
        metrics = {"loss": (total, weight), "logit_scale": (jnp.exp(params["logit_scale"]), one)}
        return LossOutput(total, weight, metrics, changed)

    def _drop(
        self, tokens: Int[Array, "B L"], mask: Float[Array, " B"], key: jax.Array
    ) -> tuple[Int[Array, "B L"], Float[Array, " B"]]:
        """Texts without some of their tokens, and the mask without some of the pairs."""
        settings, (token_key, pair_key) = self.settings, jax.random.split(key)
        if settings.token_dropout:
            ends = (tokens == self.vocabulary.bos_id) | (tokens == self.vocabulary.eos_id)
            dropped = jax.random.bernoulli(token_key, settings.token_dropout, tokens.shape) & ~ends
            tokens = jnp.where(dropped, PAD, tokens)
            order = jnp.argsort(tokens == PAD, axis=1, stable=True)
            tokens = jnp.take_along_axis(tokens, order, 1)
            tokens = jnp.where(tokens == PAD, self.vocabulary.pad_id, tokens)
        if settings.caption_dropout:
            mask *= jax.random.bernoulli(pair_key, 1 - settings.caption_dropout, mask.shape)
        return tokens, mask

    def embed(self, variables: Any, images: jax.Array) -> jax.Array:
        """Images uint8 [B, S, S, 3] as vectors of length 1, float32 [B, D]."""
        return self.embed_batch(variables, {"image": images})

    def embed_batch(self, variables: Any, batch: Batch) -> jax.Array:
        """The images of a batch, or their features, as vectors of length 1, float32 [B, D]."""
        inputs = self.model_inputs(variables, batch, None)
        vectors: Any = self.applied_model.apply(variables, inputs, method="embed_images")
        return vectors

    def embed_texts(self, variables: Any, tokens: Int[AnyArray, "T L"]) -> jax.Array:
        """Tokens int32 [T, L] as vectors of length 1, float32 [T, D]."""
        vectors: Any = self.image_text.apply(variables, tokens, method="embed_texts")
        return vectors

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Texts as tokens int32 [T, L]."""
        return self.vocabulary.encode(list(texts), self.settings.max_length)

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
        @jax.jit
        def embed(variables: Any, batch: Batch) -> dict[str, jax.Array]:
            tokens = batch["tokens"]
            rows = tokens.reshape(-1, tokens.shape[-1])
            vectors = self.embed_texts(variables, rows)
            return {
                "image_embedding": self.embed_batch(variables, batch),
                "text_embedding": vectors.reshape(*tokens.shape[:2], -1),
                "has_text": _is_text(tokens),
            }

        compute = meshes.with_mesh(mesh, embed)

        def step(variables: Any, batch: Batch, key: jax.Array) -> Any:
            del key
            return {}, compute(variables, batch)

        return step

    def evaluate(self, data: EvaluationData) -> Evaluation:
        return MatchEvaluation(match_metrics(data.rows), data)


def _is_text(tokens: Int[AnyArray, "*B L"]) -> jax.Array:
    """Which rows of tokens are not all padding, bool [*B]."""
    return (jnp.asarray(tokens) != PAD).any(-1)
