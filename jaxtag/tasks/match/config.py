"""The section `config.task` of a run that matches images with texts."""

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

from jaxtag.config.checks import check_choices, check_minimums
from jaxtag.config.schema import Config, TaskConfig
from jaxtag.errors import UsageError


@dataclasses.dataclass
class MatchConfig(TaskConfig):
    """Images and texts as vectors of one space: tokens, the text encoder and the loss."""

    TASK: ClassVar[str] = "match"
    REFERENCES: ClassVar[tuple[str, ...]] = ("pretrained",)

    # REF of a whole CLIP or SigLIP that the run starts from: both towers, projections, scale and
    # tokenizer. Its files set the form of the model and how images are prepared.
    pretrained: str | None = None
    # clip, siglip, or package.module:Name; None: that of `pretrained`, else siglip
    loss: str | None = None
    # {"hard_negative_beta": 0.5} weighs negatives by their similarity (see losses.contrastive).
    loss_kwargs: dict[str, Any] = field(default_factory=dict)
    embedding_dim: int = 256
    vocab_size: int = 8192  # upper limit; a small data set yields fewer tokens
    max_length: int = 32  # tokens including the start and end marks; longer texts are truncated
    lowercase: bool = True
    text_width: int = 256
    text_depth: int = 4
    text_heads: int = 4
    # eos (as CLIP), last (as SigLIP), mean; with a text_depth of 0 the mean of words
    text_pool: str = "eos"
    # Further fields of the text encoder and of the whole model (see jaxtag.models.TextEncoder and
    # ImageText): {"activation": "quick_gelu"}, {"projection_bias": True}.
    text_kwargs: dict[str, Any] = field(default_factory=dict)
    image_text_kwargs: dict[str, Any] = field(default_factory=dict)
    caption_dropout: float = 0.0  # share of the pairs of a batch that a step leaves out
    token_dropout: float = 0.0  # share of the tokens of a text that a step leaves out
    evaluation_captions: int = 5  # captions of an image that evaluation takes, the first ones

    def check(self, config: Config) -> None:
        check_choices(config, {"task.text_pool": ("eos", "last", "mean")})
        minimums = {"embedding_dim": 1, "max_length": 3, "text_width": 1, "text_depth": 0}
        minimums |= {"text_heads": 1, "evaluation_captions": 1}
        check_minimums(config, {f"task.{name}": value for name, value in minimums.items()})
        for name in ("caption_dropout", "token_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(
                    f"config.task.{name} = {getattr(self, name)}: must be at least 0 and below 1"
                )
        if self.pretrained is not None and config.model.pretrained is not None:
            raise UsageError(
                "config.model.pretrained: config.task.pretrained names a whole model, with its "
                "image encoder; leave one of them out"
            )
        if config.optimizer.grad_accum_steps > 1:
            raise UsageError(
                "config.optimizer.grad_accum_steps: an image is compared with all of the batch, "
                "which cannot be computed in parts; take a smaller config.batch_size"
            )
        for name in ("mixup", "cutmix"):
            if getattr(config.augmentation, name):
                raise UsageError(f"config.augmentation.{name}: a mixed image has no text")
