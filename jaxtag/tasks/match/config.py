"""The section `config.task` of a run that matches images with texts."""

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

from jaxtag.config.schema import Config, TaskConfig, check_choices, check_minimums
from jaxtag.errors import UsageError


@dataclasses.dataclass
class MatchConfig(TaskConfig):
    """Images and texts as vectors of one space: tokens, the text encoder and the loss."""

    TASK: ClassVar[str] = "match"

    loss: str = "siglip"  # clip, siglip, or package.module:Name
    # {"hard_negative_beta": 0.5} weighs negatives by their similarity (see losses.contrastive).
    loss_kwargs: dict[str, Any] = field(default_factory=dict)
    embedding_dim: int = 256
    vocab_size: int = 8192  # upper limit; a small data set yields fewer tokens
    max_length: int = 32  # tokens including the start and end marks; longer texts are truncated
    lowercase: bool = True
    text_width: int = 256
    text_depth: int = 4
    text_heads: int = 4
    text_pool: str = "eos"  # eos (as CLIP), mean; with a text_depth of 0 the mean of words
    caption_dropout: float = 0.0  # share of the pairs of a batch that a step leaves out
    token_dropout: float = 0.0  # share of the tokens of a text that a step leaves out
    evaluation_captions: int = 5  # captions of an image that evaluation takes, the first ones

    def check(self, config: Config) -> None:
        check_choices(config, {"task.text_pool": ("eos", "mean")})
        minimums = {"embedding_dim": 1, "max_length": 3, "text_width": 1, "text_depth": 0}
        minimums |= {"text_heads": 1, "evaluation_captions": 1}
        check_minimums(config, {f"task.{name}": value for name, value in minimums.items()})
        for name in ("caption_dropout", "token_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(
                    f"config.task.{name} = {getattr(self, name)}: must be at least 0 and below 1"
                )
        if config.optimizer.grad_accum_steps > 1:
            raise UsageError(
                "config.optimizer.grad_accum_steps: an image is compared with all of the batch, "
                "which cannot be computed in parts; take a smaller config.batch_size"
            )
        for name in ("mixup", "cutmix"):
            if getattr(config.augmentation, name):
                raise UsageError(f"config.augmentation.{name}: a mixed image has no text")
