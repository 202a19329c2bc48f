"""The section `config.task` of a multi-label tagging run."""

import dataclasses
from dataclasses import field
from typing import Any, ClassVar

from jaxtag.config.checks import check_choices, check_minimums
from jaxtag.config.schema import Config, TaskConfig


@dataclasses.dataclass
class TagConfig(TaskConfig):
    """Any number of tags per image."""

    TASK: ClassVar[str] = "tag"

    loss: str = "asymmetric"  # asymmetric, binary_cross_entropy, focal, or package.module:Name
    loss_kwargs: dict[str, Any] = field(default_factory=dict)
    label_smoothing: float = 0.0
    head: str = "linear"  # linear, query (ML-Decoder, as wide as model.decoder_width)
    num_queries: int = 100  # of the query head, each for a group of tags
    max_pos_weight: float | None = None  # rare tags weigh absent / present, at most this

    def check(self, config: Config) -> None:
        check_choices(config, {"task.head": ("linear", "query")})
        check_minimums(config, {"task.num_queries": 1, "task.max_pos_weight": 1})
