"""The section `config.task` of a metric-learning run."""

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

from jaxtag.config.checks import check_choices, check_divides_batch, check_minimums
from jaxtag.config.schema import Config, TaskConfig
from jaxtag.errors import UsageError


@dataclasses.dataclass
class EmbedConfig(TaskConfig):
    """Images as vectors, and the batches that they are learned from."""

    TASK: ClassVar[str] = "embed"

    loss: str = "multi_similarity"  # a name of jaxtag.losses.metric, or package.module:Name
    loss_kwargs: dict[str, Any] = field(default_factory=dict)
    label_field: str = "label"  # what positives share: label (a class) or tags
    embedding_dim: int = 128
    samples_per_class: int = 4  # per class (or tag) in a batch of batch_size / this classes

    def check(self, config: Config) -> None:
        check_choices(config, {"task.label_field": ("label", "tags")})
        check_minimums(config, {"task.embedding_dim": 1, "task.samples_per_class": 1})
        check_divides_batch(config, "task.samples_per_class")
        if config.optimizer.grad_accum_steps > 1:
            raise UsageError(
                "config.optimizer.grad_accum_steps: an image is compared with all of the batch, "
                "which cannot be computed in parts; take a smaller config.batch_size"
            )
        for name in ("mixup", "cutmix"):
            if getattr(config.augmentation, name):
                raise UsageError(f"config.augmentation.{name}: a mixed image has no single class")
