"""Image captioning: a backbone and a transformer decoder with cross-attention to its features."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxtag import models
from jaxtag.config.schema import Config
from jaxtag.data import sources, targets, transforms
from jaxtag.data.sources import Source
from jaxtag.data.targets import TagPrompt
from jaxtag.data.tokenizer import PAD
from jaxtag.decoding import generate as decoding
from jaxtag.decoding.prompt import without_prompts
from jaxtag.distributed import mesh as meshes
from jaxtag.errors import UsageError
from jaxtag.tasks import common, texts
from jaxtag.tasks.base import (
    Batch,
    Evaluation,
    EvaluationData,
    EvaluationStep,
    LossOutput,
    Predict,
    Rollout,
    Row,
)
from jaxtag.tasks.caption import self_critical
from jaxtag.tasks.caption.config import CaptionConfig
from jaxtag.tasks.caption.evaluation import CaptionEvaluation, caption_scores


class CaptionTask(texts.TextTask[CaptionConfig]):
    """Image captioning.

    A batch holds `tokens` int32 [B, K, L]: K captions of an image, BOS … EOS and padding.
    """

    config_class = CaptionConfig
    headline_metrics = ("CIDEr", "BLEU-4", "perplexity", "token_accuracy")
    contact_sheet = "captions.png"
    can_freeze = True

    def make_model(self) -> nn.Module:
        settings, text = self.config.model, self.settings
        decoder = models.Decoder(
            vocab_size=settings.decoder_vocab_size or texts.padded_size(self.vocabulary),
            max_length=text.max_length,
            width=settings.decoder_width,
            depth=settings.decoder_depth,
            heads=settings.decoder_heads,
            mlp_dim=4 * settings.decoder_width,
            dropout=settings.dropout,
            attention_dropout=settings.dropout,
            norm_eps=settings.decoder_norm_eps,
            form=settings.decoder_form,
            dtype=common.compute_dtype(settings.dtype),
            scan=common.resolve_scan(settings.scan),
            remat=common.resolve_remat(settings),
        )
        return models.Captioner(common.make_backbone(self.config), decoder)

    @property
    def captioner(self) -> models.Captioner:
        """The model, as the type that it is of."""
        return cast(models.Captioner, self.model)

    @property
    def backbone(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The encoder."""
        return self.captioner.encoder, ("encoder",)

    @property
    def backbone_output(self) -> str:
        """The decoder attends to `features`."""
        return "features"

    def init(self, key: jax.Array) -> Any:
        size = self.config.data.image_size
        images = jnp.zeros((1, size, size, 3), jnp.float32)
        tokens = jnp.zeros((1, 1, self.captioner.decoder.max_length - 1), jnp.int32)
        return self.model.init(key, images, tokens)

    def image_transform(self, train: bool) -> transforms.ImageTransform:
        """Evaluation sees whole images, squashed, where config.data.eval_crop_pct is None."""
        data = self.config.data
        if not train:
            return transforms.evaluation_transform(
                data.image_size, data.eval_crop_pct, data.eval_fit, data.eval_interpolation
            )
        if data.crop_scale == (1.0, 1.0):
            return transforms.Resize(data.image_size)
        return transforms.RandomResizedCrop(data.image_size, data.crop_scale, data.crop_ratio)

    def targets(self, train: bool) -> dict[str, targets.Target]:
        text, tag_prompt = self.settings, self._tag_prompt
        tokens = targets.CaptionTokens(
            self.vocabulary,
            text.max_length,
            captions_per_image=text.captions_per_image,
            random=train,
            tag_prompt=tag_prompt,
        )
        return {"tokens": tokens} | ({} if tag_prompt is None else {"prompt": tag_prompt})

    @property
    def _tag_prompt(self) -> TagPrompt | None:
        settings = self.settings
        if settings.tags_from is None:
            return None
        return TagPrompt(self.vocabulary, settings.max_length // 2)

    @classmethod
    def complete_source(cls, config: Config, source: Source) -> Source:
        """With the tags that config.task.tags_from says of each image."""
        settings = cls.section(config)
        if settings.tags_from is None:
            return source
        from jaxtag.inference import tag_prompt

        tagger = tag_prompt.load_tagger(settings.tags_from)
        return tag_prompt.add_to(source, tagger, settings.num_tags)

    def loss(self, variables: Any, batch: Batch, key: jax.Array | None) -> LossOutput:
        """Cross-entropy of the next token (Vinyals et al. 2015, section 3), in nats.

        The loss of an image [B] is the sum over the tokens of its captions, its weight their
        number. In a batch of samples each caption weighs as much as its advantage.
        """
        augment_key, dropout_key = (None, None) if key is None else jax.random.split(key)
        inputs, labels = batch["tokens"][:, :, :-1], batch["tokens"][:, :, 1:]
        images = self.model_inputs(variables, batch, augment_key)
        outputs, changed = self.apply_model(variables, images, inputs, key=dropout_key)
        logits = outputs["logits"].astype(jnp.float32)
        weights = (labels != PAD) * batch["mask"][:, None, None]
        if "prompt" in batch:  # is given, not learnt
            prompt_length = (batch["prompt"] >= 0).sum(1)[:, None, None]
            weights *= jnp.arange(labels.shape[2]) >= prompt_length
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        losses, smoothing = entropy, self.settings.label_smoothing
        if key is not None and smoothing:
            uniform = entropy + jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
            uniform -= logits.mean(-1)  # -mean(log softmax)
            losses = (1 - smoothing) * entropy + smoothing * uniform
        if "advantage" in batch:
            losses = entropy * batch["advantage"][:, :, None]
        count = weights.sum()
        correct = (logits.argmax(-1) == labels) * weights
        metrics = {
            "loss": ((losses * weights).sum(), count),
            "cross_entropy": ((entropy * weights).sum(), count),
            "token_accuracy": (correct.sum(), count),
        }
        if "reward" in batch:
            rewards = batch["reward"] * batch["mask"][:, None]
            metrics["reward"] = rewards.sum(), batch["mask"].sum() * rewards.shape[1]
        return LossOutput((losses * weights).sum((1, 2)), weights.sum((1, 2)), metrics, changed)

    def make_generate(
        self, **overrides: Any
    ) -> Callable[[Any, Batch, jax.Array], dict[str, jax.Array]]:
        """A compiled (variables, batch, key) -> {"tokens" int32 [B, L], "scores" float32 [B]}.

        A batch may hold `prompt` int32 [B, P] (see `encode_prompts`), which comes before that of
        config.task.decoding.

        Args:
            overrides: in the place of those of config.task.decoding.

        Raises:
            UsageError: config.task.decoding makes no sense or does not fit the model.
        """
        prompt = overrides.pop("prompt", self.settings.decoding.prompt)
        common_prompt = self.encode_prompts([prompt]) if prompt else None
        special = {"bos_id": self.vocabulary.bos_id, "eos_id": self.vocabulary.eos_id}
        settings = self.settings.generation(**special, pad_id=PAD, **overrides)
        try:
            decoding.validate(self.captioner, settings)
        except ValueError as error:
            raise UsageError(f"config.task.decoding: {error}") from error

        @jax.jit
        def generate(variables: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
            images = self.model_inputs(variables, batch, None)
            prompts = batch.get("prompt", common_prompt)
            if prompts is not None:
                prompts = jnp.broadcast_to(prompts, (images.shape[0], prompts.shape[1]))
            captioner = cast(models.Captioner, self.applied_model)
            captions = decoding.generate(
                captioner,
                variables,
                images,
                rng=key,
                prompts=prompts,
                **dataclasses.asdict(settings),
            )
            if prompts is None or not self.settings.tags_from:
                return captions
            return without_prompts(captions, prompts, PAD)

        return generate

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """The tokens of texts that captions begin with, int32 [N, P], filled with `PAD`.

        Raises:
            UsageError: one leaves no room for a caption.
        """
        tokens = self.vocabulary.encode_prompts(prompts)
        longest = self.settings.max_length - 2
        if tokens.shape[1] > longest:
            row = int((tokens >= 0).sum(1).argmax())
            raise UsageError(
                f"the prompt {prompts[row]!r} has {tokens.shape[1]} tokens: at most {longest} "
                f"leave room for a caption (config.task.max_length is {self.settings.max_length})"
            )
        return tokens

    def make_predict(self) -> Predict:
        return self.make_generate()

    def make_rollout(self, mesh: Mesh, source: Source) -> Rollout | None:
        """Samples and their advantages, of a self-critical run."""
        samples = self.settings.self_critical_samples
        if not samples:
            return None
        sample = meshes.with_mesh(mesh, self.make_generate(**self_critical.SAMPLING))
        reward = self_critical.CiderReward(source, self.vocabulary)
        return self_critical.make_rollout(sample, reward, mesh, samples)

    def rows(self, outputs: dict[str, np.ndarray], top_k: int | None = None) -> list[Row]:
        """The caption and its score; of several the best, and all of them as `captions`.

        A score is the log-probability, with beam search divided by the length penalty. With
        `output_token_scores` each caption has its `words` with their probabilities.
        """
        del top_k
        arrays = [outputs[name] for name in ("tokens", "scores", "token_scores") if name in outputs]
        if arrays[0].ndim == 2:
            return [self._caption(*values) for values in zip(*arrays, strict=True)]
        of_images = [
            [self._caption(*values) for values in zip(*image, strict=True)]
            for image in zip(*arrays, strict=True)
        ]
        return [{**captions[0], "captions": captions} for captions in of_images]

    def _caption(
        self, tokens: np.ndarray, score: np.ndarray, token_scores: np.ndarray | None = None
    ) -> Row:
        row: Row = {"caption": self.vocabulary.decode(tokens), "score": round(float(score), 4)}
        if token_scores is not None:
            row["words"] = [
                {"word": word, "score": round(math.exp(token_scores[positions].sum()), 4)}
                for word, positions in self.vocabulary.words(tokens)
            ]
        return row

    def make_evaluation_step(self, mesh: Mesh) -> EvaluationStep:
        metrics = jax.jit(
            meshes.with_mesh(mesh, lambda variables, batch: self.loss(variables, batch, None)[2]),
            out_shardings=meshes.replicated(mesh),
        )
        generate = meshes.with_mesh(
            mesh, self.make_generate(num_return_sequences=1, output_token_scores=False)
        )

        def step(variables: Any, batch: Batch, key: jax.Array) -> Any:
            sums = metrics(variables, batch)
            return sums, {"tokens": generate(variables, batch, key)["tokens"]}

        return step

    def evaluate(self, data: EvaluationData) -> Evaluation:
        pairs = data.sums.items()
        metrics = {name: float(total / max(count, 1e-9)) for name, (total, count) in pairs}
        metrics["perplexity"] = math.exp(min(metrics["cross_entropy"], 700.0))
        del metrics["loss"]
        texts = self.vocabulary.decode_batch(data.rows["tokens"])
        captions = dict(zip(data.index.tolist(), texts, strict=True))
        references = {
            position: list(texts)
            for position, texts in enumerate(sources.iter_captions(data.source))
            if position in captions
        }
        metrics |= caption_scores(captions, references, data.source)
        metrics["examples"] = len(captions)
        return CaptionEvaluation(metrics, data, captions, references, self.config.seed)
